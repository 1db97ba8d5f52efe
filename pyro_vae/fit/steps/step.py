"""One step of training: the gradient of a batch, and the optimizer's move."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pyro_vae.fit.steps.gradients import Batch, BatchLoss, TracedGradients


class Step(Protocol):
    """Takes steps of training."""

    @property
    def level(self) -> str:
        """How the step really runs: "off", "trace" or "inductor"."""

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch at this KL weight, and return the loss.

        On the CPU a loss that is not finite moves nothing.
        """

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph that the steps run, or None where they run none of this shape."""

    def settle(self) -> None:
        """Bring the optimizer's own state up to date, before anyone else reads it."""


class SeparateStep:
    """Compute loss and gradient first, then let the optimizer take its own step.

    Args:
        loss: what the step descends.
        optimizer: moves the parameters.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        traced: compute loss and gradient by a graph where that is possible.
    """

    def __init__(
        self, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None, *, traced: bool = True
    ) -> None:
        self._traced = TracedGradients(loss) if traced else None
        self._gradients = self._traced or loss.eager()
        self._parameters, self._optimizer, self._clip_grad_norm = loss.parameters, optimizer, clip_grad_norm

    @property
    def level(self) -> str:
        """How the step really runs: "off" or "trace"."""
        return "off" if self._traced is None else self._traced.level

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch and return the loss."""
        loss, *gradients = self._gradients(batch, beta)
        # Another device is not waited for: a loss of its that is not finite is found a few steps later.
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
        return self._traced(batch, beta) if self._traced is not None and self._traced.has_graph(batch) else None

    def settle(self) -> None:
        """Drop the gradients; the optimizer's state is up to date."""
        self._optimizer.zero_grad()


def clipped(gradients: list[Tensor], bound: float) -> list[Tensor]:
    """Return gradients scaled down to a total norm of at most ``bound``.

    Out of place: gradients out of a graph may share their memory.
    """
    factor = (bound / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    return [torch.mul(gradient, factor) for gradient in gradients]
