"""The ways to take a step, by name: from Pyro's own run to one compiled graph."""

from collections.abc import Callable

from torch.optim import Optimizer

from pyro_vae.fit.steps.auto_step import AutoStep
from pyro_vae.fit.steps.gradients import BatchLoss, TracedGradients
from pyro_vae.fit.steps.step import SeparateStep, Step
from pyro_vae.fit.steps.whole_step import WholeStep


def _off(loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None, _: int | None) -> Step:
    return SeparateStep(loss.eager(), loss, optimizer, clip_grad_norm)


def _trace(loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None, _: int | None) -> Step:
    return SeparateStep(TracedGradients(loss), loss, optimizer, clip_grad_norm)


def _inductor(loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None, _: int | None) -> Step:
    return WholeStep(loss, optimizer, clip_grad_norm)


LEVELS: dict[str, Callable[[BatchLoss, Optimizer, float | None, int | None], Step]] = {
    "off": _off,
    "trace": _trace,
    "inductor": _inductor,
    "auto": AutoStep,
}


def make_step(
    level: str, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None, steps: int | None = None
) -> Step:
    """Return what takes the steps of a run.

    Args:
        level: a key of :data:`LEVELS`.
        loss: what each step descends.
        optimizer: moves the parameters.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        steps: how many the whole run will take, where that is known.
    """
    return LEVELS[level](loss, optimizer, clip_grad_norm, steps)
