"""The loss of one batch and its gradient: run by Pyro, or captured once as a graph."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.graphs.capture import NotTraceable, capture, unlike
from pyro_vae.graphs.draws import Draws
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.programs.modules import as_args, as_input, local_params
from pyro_vae.protocols import Objective, Program

logger = logging.getLogger("pyro_vae")

Batch = Tensor | tuple[Tensor, ...]
"""Indices of rows, or the rows themselves; a tuple where a datum is of several tensors."""

LossAndGradients = Callable[[Batch, Tensor], list[Tensor]]
"""From a batch and the KL weight to [loss, gradient of each parameter]."""

MAX_GRAPHS = 4
"""The most batch shapes that get a graph; batches of other shapes are run by Pyro."""


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The loss of a pair on a batch, and the parameters that its gradient is taken with respect to."""

    model: Program
    """p(x, z)."""
    guide: Program
    """q(z | x)."""
    objective: Objective
    """A ``pyro.infer.ELBO``."""
    observe: Callable[[Batch], Any]
    """From a batch to the model's input; where rows are gathered and binarized."""
    parameters: Sequence[Tensor]
    modules: Sequence[nn.Module] = field(default=(), repr=False)
    """The modules of the pair, whose buffers a step may change."""
    warmup: bool = False
    """Whether the KL weight enters."""
    guarded: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes the context that the loss is computed in, as :meth:`pyro_vae.programs.pair.Pair.guarded`."""

    def eager(self) -> LossAndGradients:
        """Return loss and gradients as Pyro computes them."""
        if hasattr(self.objective, "differentiable_loss"):
            return self._differentiated(self.objective.differentiable_loss)
        return self._by_svi

    def recordable(self) -> LossAndGradients:
        """Return the same function in a form that a graph can record: the loss stays a tensor.

        Raises:
            NotTraceable: the objective has no such loss.
        """
        return self._differentiated(tensor_loss(self.objective))

    def _weighted(self, beta: Tensor) -> AbstractContextManager[Any]:
        return KLWeight(beta) if self.warmup else nullcontext()

    def _differentiated(self, loss_function: Callable[..., Tensor]) -> LossAndGradients:
        def loss_and_gradients(batch: Batch, beta: Tensor) -> list[Tensor]:
            with local_params(self.model, self.guide), self._weighted(beta), self.guarded():
                loss = loss_function(self.model, self.guide, *as_args(self.observe(batch)))
            gradients = torch.autograd.grad(loss, list(self.parameters), allow_unused=True, materialize_grads=True)
            return [loss.detach(), *(gradient.contiguous() for gradient in gradients)]

        return loss_and_gradients

    def _by_svi(self, batch: Batch, beta: Tensor) -> list[Tensor]:
        # RenyiELBO, TraceGraph_ELBO and others have only what SVI calls: it leaves the gradients in `.grad`.
        for parameter in self.parameters:
            parameter.grad = None
        with local_params(self.model, self.guide), self._weighted(beta), self.guarded():
            loss = self.objective.loss_and_grads(  # type: ignore[attr-defined]
                self.model, self.guide, *as_args(self.observe(batch))
            )
        if all(parameter.grad is None for parameter in self.parameters):
            raise ValueError(
                f"fit: {type(self.objective).__name__} gave no gradient: it trains only what a `pyro.param` or "
                f"`pyro.module` statement of the pair names, or a PyroModule that is called itself."
            )
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return [beta.new_tensor(loss), *gradients]


def shapes_of(batch: Batch) -> tuple[Any, ...]:
    """Return what a graph of a batch depends on: shape and dtype of each tensor."""
    return tuple((part.shape, part.dtype) for part in as_args(batch))


def of_tensors(function: LossAndGradients) -> Callable[..., list[Tensor]]:
    """Return a function of a batch and the KL weight as one of the batch's tensors and the KL weight."""
    return lambda *tensors: function(as_input(tensors[:-1]), tensors[-1])


def recorded_on(batch: Batch, beta: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a graph is recorded with, and other ones that it is tried on."""
    return [*as_args(batch), beta], [*map(unlike, as_args(batch)), 0.5 * beta]


class TracedGradients:
    """Compute loss and gradients by a graph for each batch shape, the same as Pyro's under a seed.

    What cannot be captured is run by Pyro, which is logged in one line.
    """

    def __init__(self, loss: BatchLoss) -> None:
        self._eager = loss.eager()
        self._modules = loss.modules
        self._graphs: dict[Any, Callable[..., list[Tensor]]] = {}
        self.level = "trace"
        try:
            self._source = loss.recordable()
        except NotTraceable as reason:
            self._fall_back(str(reason))

    def __call__(self, batch: Batch, beta: Tensor) -> list[Tensor]:
        """Return [loss, gradient of each parameter] of one batch."""
        if self.level == "off":
            return self._eager(batch, beta)
        key = shapes_of(batch)
        if key not in self._graphs:
            self._graphs[key] = self._capture(batch, beta)
        with torch.no_grad():
            return self._graphs[key](*as_args(batch), beta)

    def has_graph(self, batch: Batch) -> bool:
        """Whether batches of this shape run as a graph."""
        return self.level == "trace" and isinstance(self._graphs.get(shapes_of(batch)), Draws)

    def _capture(self, batch: Batch, beta: Tensor) -> Callable[..., list[Tensor]]:
        if len(self._graphs) == MAX_GRAPHS:
            logger.warning("fit: more than %d batch shapes; the others run without a graph", MAX_GRAPHS)
        if len(self._graphs) >= MAX_GRAPHS:
            return torch.enable_grad()(of_tensors(self._eager))
        try:
            return capture(of_tensors(self._source), *recorded_on(batch, beta), self._modules)
        except NotTraceable as reason:
            self._fall_back(str(reason))
            return torch.enable_grad()(of_tensors(self._eager))

    def _fall_back(self, reason: str) -> None:
        logger.warning("fit: compile='trace' is not possible here, the step runs eagerly: %s", reason)
        self.level = "off"
