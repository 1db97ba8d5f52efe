"""The loss of one batch and its gradient: run by Pyro as it is, or captured once as a graph."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.graph import NotTraceable, capture, unlike
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.programs import local_params
from pyro_vae.protocols import Objective, Program

logger = logging.getLogger("pyro_vae")

LossAndGradients = Callable[[Tensor, Tensor], list[Tensor]]
"""From rows of the data and the KL weight to [loss, gradient of each parameter]."""

MAX_GRAPHS = 4
"""Batch shapes that are worth a graph each; any further shape runs as it is."""


def eager_gradients(
    model: Program,
    guide: Program,
    objective: Objective,
    observe: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    warmup: bool = False,
) -> LossAndGradients:
    """Return the step as Pyro runs it.

    Args:
        model: p(x, z).
        guide: q(z | x).
        objective: a ``pyro.infer.ELBO``.
        observe: from rows of the data to the model's input; where binarization happens.
        parameters: what the gradient is taken of.
        warmup: whether the KL weight enters.
    """
    if hasattr(objective, "differentiable_loss"):
        return _step(model, guide, objective.differentiable_loss, observe, parameters, warmup)

    def loss_and_gradients(rows: Tensor, beta: Tensor) -> list[Tensor]:
        # RenyiELBO, TraceGraph_ELBO and others have only what SVI calls: it leaves the gradients in `.grad`.
        for parameter in parameters:
            parameter.grad = None
        with local_params(model, guide), KLWeight(beta) if warmup else nullcontext():
            loss = objective.loss_and_grads(model, guide, observe(rows))  # type: ignore[attr-defined]
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError(
                f"fit: {type(objective).__name__} gave no gradient: it trains only what a `pyro.param` or "
                f"`pyro.module` statement of the pair names, or a PyroModule that is called itself."
            )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return [beta.new_tensor(loss), *gradients]

    return loss_and_gradients


def _step(
    model: Program,
    guide: Program,
    loss_function: Callable[..., Tensor],
    observe: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    warmup: bool,
) -> LossAndGradients:
    def loss_and_gradients(rows: Tensor, beta: Tensor) -> list[Tensor]:
        with local_params(model, guide), KLWeight(beta) if warmup else nullcontext():
            loss = loss_function(model, guide, observe(rows))
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True, materialize_grads=True)
        return [loss.detach(), *(gradient.contiguous() for gradient in gradients)]

    return loss_and_gradients


class TracedGradients:
    """The same step as a graph for each batch shape, with the same noise, loss and gradients under a seed.

    What cannot be captured is run by Pyro, which is said in one line.

    Args:
        model, guide, objective, observe, parameters, warmup: as for :func:`eager_gradients`.
        modules: the modules behind the pair, whose buffers a step may change.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        observe: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        warmup: bool,
        modules: Sequence[nn.Module],
    ) -> None:
        self._eager = eager_gradients(model, guide, objective, observe, parameters, warmup)
        self._modules = modules
        self._graphs: dict[Any, LossAndGradients] = {}
        self.level = "trace"
        try:
            self._source = _step(model, guide, tensor_loss(objective), observe, parameters, warmup)
        except NotTraceable as reason:
            self._fall_back(str(reason))

    def __call__(self, rows: Tensor, beta: Tensor) -> list[Tensor]:
        """Return [loss, gradient of each parameter] of one batch."""
        if self.level == "off":
            return self._eager(rows, beta)
        key = (rows.shape, rows.dtype)
        if key not in self._graphs:
            self._graphs[key] = self._capture(rows, beta)
        with torch.no_grad():
            return self._graphs[key](rows, beta)

    def _capture(self, rows: Tensor, beta: Tensor) -> LossAndGradients:
        if len(self._graphs) == MAX_GRAPHS:
            logger.warning("fit: more than %d batch shapes; the others run without a graph", MAX_GRAPHS)
        if len(self._graphs) >= MAX_GRAPHS:
            return torch.enable_grad()(self._eager)
        try:
            return capture(self._source, [rows, beta], [unlike(rows), 0.5 * beta], self._modules)
        except NotTraceable as reason:
            self._fall_back(str(reason))
            return torch.enable_grad()(self._eager)

    def _fall_back(self, reason: str) -> None:
        logger.warning("fit: compile='trace' is not possible here, the step runs eagerly: %s", reason)
        self.level = "off"
