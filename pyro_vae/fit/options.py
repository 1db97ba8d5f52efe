"""What ``fit`` accepts in several forms, made into one: device, optimizer, schedule."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.fit.schedules import SCHEDULES

OptimizerLike = Optimizer | Callable[[list[Tensor]], Optimizer]
SchedulerLike = LRScheduler | Callable[[Optimizer], LRScheduler] | str


def as_device(device: str | torch.device) -> torch.device:
    """Return a device that is there.

    Raises:
        ValueError: it is unknown to torch, or not on this machine.
    """
    try:
        target = torch.device(device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"fit: device {str(device)!r} cannot be used here: {reason}") from error
    return target


def as_optimizer(optimizer: OptimizerLike | None, trainable: list[Tensor]) -> Optimizer:
    """Return a torch optimizer over the pair's parameters.

    Raises:
        ValueError: an optimizer was given that holds none of them.
    """
    if optimizer is None:
        return torch.optim.Adam(trainable, lr=1e-3, fused=True)
    if not isinstance(optimizer, Optimizer):
        return optimizer(trainable)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in trainable}:
        raise ValueError(
            "fit: the optimizer holds none of the pair's parameters. Build it over model.parameters() and "
            "guide.parameters(), or pass what makes one: functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    return optimizer


def as_scheduler(scheduler: SchedulerLike | None, optimizer: Optimizer, epochs: int) -> LRScheduler | None:
    """Return a torch scheduler for the optimizer, or None.

    Raises:
        ValueError: there is no schedule of that name.
    """
    if scheduler is None or isinstance(scheduler, LRScheduler):
        return scheduler
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULES:
            raise ValueError(f"fit: unknown scheduler {scheduler!r}; by name there are {', '.join(SCHEDULES)}.")
        return SCHEDULES[scheduler](optimizer, epochs)
    return scheduler(optimizer)


def check_settings(
    *, epochs: int, compile: str, levels: tuple[str, ...], kl_warmup: int, clip_grad_norm: float | None,
    patience: int | None,
) -> None:  # fmt: skip
    """Refuse numbers and names that make no sense.

    Raises:
        ValueError: says which.
    """
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1; got {epochs}.")
    if compile not in levels:
        raise ValueError(f"fit: compile must be one of {', '.join(levels)}; got {compile!r}.")
    if kl_warmup < 0:
        raise ValueError(f"fit: kl_warmup counts epochs and cannot be negative; got {kl_warmup}.")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"fit: clip_grad_norm must be positive; got {clip_grad_norm}.")
    if patience is not None and patience < 1:
        raise ValueError(f"fit: patience must be at least 1 epoch; got {patience}.")
