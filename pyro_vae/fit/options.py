"""The settings of ``fit``, checked: device, objective, optimizer and scheduler each have several forms."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.fit.schedules import SCHEDULES
from pyro_vae.graphs.levels import check_level
from pyro_vae.protocols import Objective
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count, check_number, check_seed, in_short
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import told

logger = logging.getLogger("pyro_vae")

Made = TypeVar("Made")

NO_LOSSES: dict[type, str] = {
    pyro.infer.ReweightedWakeSleep: "it has two losses, one of the model and one of the guide; "
    "pyro_vae.objectives.ReweightedWakeSleep() has their gradients in one",
    pyro.infer.TraceTailAdaptive_ELBO: "Pyro computes a gradient for it and no loss; "
    "pyro_vae.objectives.RenyiBound() is a family of divergences with one",
    pyro.infer.SVI: "it takes steps of its own; pass its loss, as Trace_ELBO(), and a torch optimizer",
}
"""Classes of Pyro that have the methods of an objective and cannot be trained: why, and what to do."""

NO_OPTIMIZERS: dict[type[Optimizer], str] = {
    SparseAdam: "takes sparse gradients alone, and those of a loss are dense",
    LBFGS: "evaluates the loss several times a step, on noise that must not change; fit draws new noise and new data "
    "each step",
}
"""Optimizers of torch that cannot be trained with, and why."""

EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 128, 3e-3
"""Defaults of ``fit``, the command line, grids and examples."""

OptimizerLike = Optimizer | Callable[[list[Tensor]], Optimizer]
SchedulerLike = LRScheduler | Callable[[Optimizer], LRScheduler] | str


def as_device(device: str | torch.device) -> torch.device:
    """Return a device that is there.

    Raises:
        ValueError: it is unknown to torch, or not on this machine.
    """
    if not isinstance(device, str | torch.device):
        raise ValueError(f"fit: device must be a name, as 'cpu' or 'cuda:1'; got {in_short(device)}.")
    try:
        target = torch.device(device)
        if target.type == "meta":
            raise NotImplementedError("it holds no values")
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"fit: {argument('device')} {str(device)!r} cannot be used here: {reason}") from error
    return target


def as_optimizer(optimizer: OptimizerLike | None, trainable: list[Tensor]) -> Optimizer:
    """Return a torch optimizer over the pair's parameters.

    Raises:
        ValueError: an optimizer was given that holds none of them.
    """
    if optimizer is None:
        return torch.optim.Adam(trainable, lr=LEARNING_RATE, fused=True)
    expected = "fit: optimizer must be a torch optimizer, or what makes one from a list of parameters; got"
    remedy = "Pass functools.partial(torch.optim.Adam, lr=1e-3)"
    maker: Any = optimizer
    while isinstance(maker, functools.partial):
        maker = maker.func
    if _is_pyros(maker):
        name = in_short(maker) if isinstance(maker, PyroOptim) else f"pyro.optim.{maker.__name__}"
        raise ValueError(
            f"{expected} {name}, and Pyro's keep one torch optimizer for each parameter. {remedy}; clip_grad_norm=... "
            f"bounds the gradient."
        )
    if not isinstance(optimizer, Optimizer):
        if not callable(optimizer):
            raise ValueError(f"{expected} {in_short(optimizer)}. {remedy}.")
        optimizer = _made("optimizer", optimizer, trainable, Optimizer)
    refused = [why for kind, why in NO_OPTIMIZERS.items() if isinstance(optimizer, kind)]
    if any("lr" not in group for group in optimizer.param_groups):
        refused.append("has no learning rate `lr`, which each epoch records and a scheduler moves")
    if refused:
        raise ValueError(f"fit: {type(optimizer).__name__} {refused[0]}. Use torch.optim.Adam or another optimizer.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in trainable}:
        raise ValueError(
            "fit: the optimizer holds none of the pair's parameters. Build it over model.parameters() and "
            "guide.parameters(), or pass what makes one: functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    return optimizer


def as_objective(objective: Any) -> Objective:
    """Return the objective as it is trained: ``Trace_ELBO()`` unless given.

    Pyro's Jit objectives become the plain ones of the same loss, which is logged. They compile the loss themselves, and
    look parameters up in Pyro's global store, where those of a module that keeps its parameters to itself are not.

    Raises:
        ValueError: it is no objective.

    >>> type(as_objective(pyro.infer.JitTrace_ELBO(num_particles=3))).__name__
    'Trace_ELBO'
    """
    if objective is None:
        return Trace_ELBO()
    able = hasattr(objective, "loss") and any(
        hasattr(objective, name) for name in ("differentiable_loss", "loss_and_grads")
    )
    if isinstance(objective, type) or not able:
        is_class = isinstance(objective, type) and able and objective not in NO_LOSSES
        made = f": {objective.__name__}() is one" if is_class else ""
        raise ValueError(
            f"fit: objective must be a pyro.infer.ELBO, as Trace_ELBO() or pyro_vae.objectives.IWAE(); got "
            f"{in_short(objective)}{made}."
        )
    for kind, why in NO_LOSSES.items():
        if isinstance(objective, kind):
            raise ValueError(f"fit: pyro.infer.{kind.__name__} cannot be trained: {why}.")
    name = type(objective).__name__
    if not name.startswith("Jit") or type(objective) is not getattr(pyro.infer, name, None):
        return objective
    plain = getattr(pyro.infer, name.removeprefix("Jit"))
    logger.warning("fit: %s runs as %s; compile=... compiles", name, plain.__name__)
    settings = set(inspect.signature(ELBO.__init__).parameters) & vars(objective).keys()
    return plain(**{setting: getattr(objective, setting) for setting in settings})


def as_scheduler(scheduler: SchedulerLike | None, optimizer: Optimizer, epochs: int) -> LRScheduler | None:
    """Return a torch scheduler for the optimizer, or None.

    Raises:
        ValueError: there is no schedule of that name.
    """
    if scheduler is None:
        return None
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULES:
            raise ValueError(f"fit: unknown scheduler {scheduler!r}; by name there are {', '.join(SCHEDULES)}.")
        return SCHEDULES[scheduler](optimizer, epochs)
    if not isinstance(scheduler, LRScheduler):
        scheduler = _made("scheduler", scheduler, optimizer, LRScheduler)
    for group in optimizer.param_groups:
        # As torch's other schedulers do: a run that is resumed with the same objects knows what it started from.
        group.setdefault("initial_lr", group["lr"])
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            "fit: the scheduler moves the learning rate of another optimizer. Make it of the optimizer that is passed, "
            "or pass what makes it: functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10)."
        )
    return scheduler


def _is_pyros(maker: Any) -> bool:
    """Whether it is or makes an optimizer of Pyro's own kind; Pyro also has some of torch's."""
    cls = maker if isinstance(maker, type) else type(maker)
    in_pyro = (getattr(maker, "__module__", None) or "").startswith("pyro.optim.")
    return isinstance(maker, PyroOptim) or (in_pyro and not issubclass(cls, Optimizer))


def _made(what: str, maker: Any, given: Any, kind: type[Made]) -> Made:
    """Return what a callable makes of parameters or an optimizer.

    Raises:
        ValueError: it cannot be called so, or makes something else.
    """
    try:
        made = maker(given)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        remedy = "Give the other arguments before: functools.partial(...)." if isinstance(error, TypeError) else ""
        raise ValueError(
            f"fit: {what} must be made by a call with one argument, which failed: {told(error)}. {remedy}".rstrip()
        ) from error
    if not isinstance(made, kind):
        raise ValueError(f"fit: {what} must make a torch {what}; {in_short(maker)} made {in_short(made)}.")
    return made


def check_settings(
    *, epochs: int, compile: str, kl_warmup: int, clip_grad_norm: float | None, patience: int | None, seed: int
) -> None:  # fmt: skip
    """Refuse numbers and names that make no sense.

    Raises:
        ValueError: says which.
    """
    check_count("fit", "epochs", epochs)
    check_level("fit", compile)
    check_count("fit", "kl_warmup", kl_warmup, least=0)
    check_count("fit", "seed", seed, least=0)
    check_seed("fit", seed)
    if clip_grad_norm is not None:
        check_number("fit", "clip_grad_norm", clip_grad_norm)
        if not clip_grad_norm > 0:
            raise ValueError(f"fit: clip_grad_norm must be positive; got {clip_grad_norm}.")
    if patience is not None:
        check_count("fit", "patience", patience)
