"""What ``fit`` accepts in several forms, made into one: device, optimizer, schedule."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.fit.schedules import SCHEDULES
from pyro_vae.objectives.without_jit import without_jit
from pyro_vae.protocols import Objective
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count, check_number, check_seed, in_short
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import told

Made = TypeVar("Made")

GRADIENTS = ("differentiable_loss", "loss_and_grads")
"""Of which an objective has one at least."""

NO_LOSSES: dict[type, str] = {
    pyro.infer.ReweightedWakeSleep: "it has two losses, one of the model and one of the guide; "
    "pyro_vae.objectives.ReweightedWakeSleep() has their gradients in one",
    pyro.infer.TraceTailAdaptive_ELBO: "Pyro computes a gradient for it and no loss; "
    "pyro_vae.objectives.RenyiBound() is a family of divergences with one",
    pyro.infer.SVI: "it takes steps of its own; pass its loss, as Trace_ELBO(), and a torch optimizer",
}
"""Of Pyro's inference, what has the names of an objective and is none, and what to do."""

EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 128, 3e-3
"""What is taken where the caller says nothing: by ``fit``, the command line, grids and examples alike."""

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
    if _is_pyros(optimizer):
        maker = _unwrapped(optimizer)
        name = in_short(maker) if isinstance(maker, PyroOptim) else f"pyro.optim.{maker.__name__}"
        raise ValueError(
            f"fit: optimizer must be a torch optimizer, or what makes one from a list of parameters; got {name}, and "
            f"Pyro's keep one torch optimizer for each parameter. Pass functools.partial(torch.optim.Adam, lr=1e-3); "
            f"clip_grad_norm=... bounds the gradient."
        )
    if not (isinstance(optimizer, Optimizer) or callable(optimizer)):
        raise ValueError(
            f"fit: optimizer must be a torch optimizer, or what makes one from a list of parameters; got "
            f"{in_short(optimizer)}. Pass functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    if not isinstance(optimizer, Optimizer):
        optimizer = _made("optimizer", optimizer, trainable, Optimizer)
    if isinstance(optimizer, SparseAdam):
        raise ValueError(
            "fit: SparseAdam takes sparse gradients alone, and those of a loss are dense. Use torch.optim.Adam."
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(
            f"fit: {type(optimizer).__name__} has no learning rate `lr`, which each epoch records and a scheduler "
            f"moves. Use torch.optim.Adam or another optimizer that has one."
        )
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "fit: LBFGS evaluates the loss several times a step, on noise that must not change; fit draws new noise "
            "and new data each step. Use torch.optim.Adam or another optimizer of one gradient a step."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in trainable}:
        raise ValueError(
            "fit: the optimizer holds none of the pair's parameters. Build it over model.parameters() and "
            "guide.parameters(), or pass what makes one: functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    return optimizer


def as_objective(objective: Any) -> Objective:
    """Return the objective as it is trained: Pyro's ELBO unless given, and none of Pyro's Jit classes.

    Raises:
        ValueError: it is no objective.
    """
    if objective is None:
        return Trace_ELBO()
    able = hasattr(objective, "loss") and any(hasattr(objective, name) for name in GRADIENTS)
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
    return without_jit(objective)


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


def _unwrapped(maker: Any) -> Any:
    """Return what a partial calls, anything else as it is."""
    return _unwrapped(maker.func) if isinstance(maker, functools.partial) else maker


def _is_pyros(maker: Any) -> bool:
    """Whether it is one of Pyro's optimizers, or makes one: its torch optimizers are classes."""
    maker = _unwrapped(maker)
    module = getattr(maker, "__module__", None) or ""
    return isinstance(maker, PyroOptim) or (
        not isinstance(maker, Optimizer)
        and module.startswith("pyro.optim.")
        and not (isinstance(maker, type) and issubclass(maker, Optimizer))
    )


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
    *, epochs: int, compile: str, levels: tuple[str, ...], kl_warmup: int, clip_grad_norm: float | None,
    patience: int | None, seed: int,
) -> None:  # fmt: skip
    """Refuse numbers and names that make no sense.

    Raises:
        ValueError: says which.
    """
    check_count("fit", "epochs", epochs)
    if compile not in levels:
        raise ValueError(f"fit: compile must be one of {', '.join(levels)}; got {compile!r}.")
    check_count("fit", "kl_warmup", kl_warmup, least=0)
    check_count("fit", "seed", seed, least=0)
    check_seed("fit", seed)
    if clip_grad_norm is not None:
        check_number("fit", "clip_grad_norm", clip_grad_norm)
        if not clip_grad_norm > 0:
            raise ValueError(f"fit: clip_grad_norm must be positive; got {clip_grad_norm}.")
    if patience is not None:
        check_count("fit", "patience", patience)
