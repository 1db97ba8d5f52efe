"""One step of training: the gradient of a batch, and the optimizer's move."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pyro_vae.fit.steps.gradients import Batch, BatchLoss, LossAndGradients, TracedGradients


class Step(Protocol):
    """Takes steps of training."""

    @property
    def level(self) -> str:
        """How it really runs: "off", "trace" or "inductor"."""

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch at this KL weight, and return the loss.

        On the CPU a loss that is not finite moves nothing.
        """

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph that the steps run, or None where they run none of this shape."""

    def settle(self) -> None:
        """Bring the optimizer's own state up to date, before anyone else reads it."""


class SeparateStep:
    """Loss and gradient first, then the optimizer's own step.

    Args:
        gradients: from a batch and the KL weight to loss and gradients.
        loss: whose parameters move.
        optimizer: moves them.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
    """

    def __init__(
        self, gradients: LossAndGradients, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None
    ) -> None:
        self._gradients, self._parameters = gradients, loss.parameters
        self._optimizer, self._clip_grad_norm = optimizer, clip_grad_norm

    @property
    def level(self) -> str:
        """How it really runs: "off" or "trace"."""
        return self._gradients.level if isinstance(self._gradients, TracedGradients) else "off"

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch and return the loss."""
        loss, *gradients = self._gradients(batch, beta)
        # Other devices are not waited for: whoever collects the losses finds out a few steps later.
        if loss.device.type == "cpu" and not loss.isfinite():
            return loss
        if self._clip_grad_norm is not None:
            gradients = clipped(gradients, self._clip_grad_norm)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        return loss

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph, or None where there is none for this shape."""
        traced = isinstance(self._gradients, TracedGradients) and self._gradients.has_graph(batch)
        return self._gradients(batch, beta) if traced else None

    def settle(self) -> None:
        """Drop the gradients: nothing else is held back."""
        self._optimizer.zero_grad()


def clipped(gradients: list[Tensor], bound: float) -> list[Tensor]:
    """Return gradients scaled down to a total norm of at most ``bound``.

    Out of place: gradients out of a graph may share their memory.
    """
    factor = (bound / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    return [torch.mul(gradient, factor) for gradient in gradients]
