"""A step of training as one compiled graph: gather, binarize, loss, gradient, clipping, and the optimizer's move."""

import itertools
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

from pyro_vae.fit.steps.gradients import (
    Batch,
    BatchLoss,
    TracedGradients,
    of_tensors,
    recorded_on,
    shapes_of,
)
from pyro_vae.fit.steps.step import SeparateStep, clipped
from pyro_vae.fit.steps.updates import Update
from pyro_vae.graphs.capture import NotTraceable, record
from pyro_vae.graphs.inductor import NotCompilable, as_not_compilable, launched_once, lift, native
from pyro_vae.programs.modules import as_args
from pyro_vae.programs.undo import VERIFICATION_SEED, no_side_effects
from pyro_vae.runtime.roundings import agree

logger = logging.getLogger("pyro_vae")

NOISES = tuple(range(VERIFICATION_SEED, VERIFICATION_SEED + 3))
"""Seeds of the draws that a compiled step is tried on."""


class WholeStep:
    """Steps by native code for the first batch shape; other shapes (a loader's last batch) are traced.

    Noise, and up to rounding loss and move, are those of the gradient by Pyro and a step by torch's optimizer: one
    step is taken both ways beforehand, on copies, and compared. What cannot be compiled is traced, which is said in one
    line.

    Args:
        loss: what the step descends.
        optimizer: one that :class:`~pyro_vae.fit.steps.updates.Update` knows; its state is kept up to date.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
    """

    def __init__(self, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None) -> None:
        self._loss, self._optimizer, self._clip_grad_norm = loss, optimizer, clip_grad_norm
        self._traced = SeparateStep(TracedGradients(loss), loss, optimizer, clip_grad_norm)
        self._update: Update | None = None
        self._run: Callable[..., list[Tensor]] | None = None
        self._takes: tuple[Any, ...] | None = None
        self._recorded: GraphModule | None = None
        self._falls_back = False

    @property
    def level(self) -> str:
        """How it really runs: "inductor", or what the traced step does."""
        return self._traced.level if self._falls_back else "inductor"

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch and return the loss; one that is not finite moves nothing."""
        if not self._falls_back and (self._run is None or self._update is None or not self._update.is_current):
            self._prepare(batch, beta)
        if self._run is None or self._update is None or self._takes != shapes_of(batch):
            return self._by_the_optimizer(batch, beta)
        numbers = self._update.numbers().to(beta.device, non_blocking=True)
        with torch.no_grad():
            loss = self._run(*as_args(batch), beta, numbers)[0]
        self._count(loss)
        return loss

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph, or None where none runs."""
        if self._recorded is None or self._takes != shapes_of(batch):
            return None if self._update is None and not self._falls_back else self._traced.replay(batch, beta)
        with torch.no_grad():
            return self._recorded(*as_args(batch), beta)

    def settle(self) -> None:
        """Write the number of steps into the optimizer's state."""
        self._traced.settle()
        if self._update is not None:
            self._update.write_steps()

    def _by_the_optimizer(self, batch: Batch, beta: Tensor) -> Tensor:
        self.settle()
        loss = self._traced(batch, beta)
        self._count(loss)
        return loss

    def _count(self, loss: Tensor) -> None:
        # One that moved nothing is none; other devices are not waited for.
        if self._update is not None and (loss.device.type != "cpu" or loss.isfinite()):
            self._update.advance()

    def _prepare(self, batch: Batch, beta: Tensor) -> None:
        self.settle()
        self._run, self._update, self._recorded = None, None, None
        update = None
        try:
            with as_not_compilable():
                twin = deepcopy(self._optimizer)
                update = Update(self._optimizer, self._loss.parameters)
            self._run = self._compiled(update, twin, batch, beta)
            self._takes, self._update = shapes_of(batch), update
        except NotTraceable:
            # The traced step finds the same, and says so.
            pass
        except NotCompilable as reason:
            logger.warning("fit: compile='inductor' is not possible here, the step is traced instead: %s", reason)
        finally:
            # Also where the user has interrupted the compiler.
            if self._run is None and update is not None:
                update.forget()
        self._falls_back = self._run is None

    def _compiled(self, update: Update, twin: Optimizer, batch: Batch, beta: Tensor) -> Callable[..., list[Tensor]]:
        """Return the step as native code that takes batch, KL weight and the update's numbers.

        Raises:
            NotTraceable: the gradient cannot be recorded.
            NotCompilable: the step cannot be compiled, or does not do what it should.
        """
        taken, others = recorded_on(batch, beta)
        recorded, _ = record(of_tensors(self._loss.recordable()), taken, others, self._loss.modules)
        gradients, held = lift(recorded)
        read = len(held)
        # The tensors that the graph reads come first, then the other parameters, then the optimizer's state.
        places = [_place(p, held) for p in self._loss.parameters]
        state = list(itertools.chain.from_iterable(update.tensors))
        tensors = [tensor.detach() for tensor in [*held, *state]]

        def step(*arguments: Tensor) -> list[Tensor]:
            given, numbers, tensors = arguments[: len(taken)], arguments[len(taken)], arguments[len(taken) + 1 :]
            before, rest = list(tensors[: len(held)]), iter(tensors[len(held) :])
            loss, *slopes = gradients(*before[:read], *given)
            if self._clip_grad_norm is not None:
                slopes = clipped(slopes, self._clip_grad_norm)
            parameters = [before[place] for place in places]
            states = [[next(rest) for _ in tensors_of] for tensors_of in update.tensors]
            finite = loss.isfinite()
            updated = update(parameters, slopes, states, numbers)
            for place, of_parameter, values in zip(update.places, states, updated, strict=True):
                # A loss that is not finite changes nothing.
                for tensor, value in zip([parameters[place], *of_parameter], values, strict=True):
                    tensor.copy_(torch.where(finite, value, tensor))
            return [loss]

        written = {*(places[place] for place in update.places), *range(len(held), len(tensors))}
        if _overlap(tensors, written):
            raise NotCompilable("parameters share their memory with other tensors")
        inputs = [*taken, update.numbers().to(beta.device), *tensors]

        def in_place(*arguments: Tensor) -> list[Tensor]:
            return run(*arguments, *tensors)

        with as_not_compilable():
            whole = make_fx(step, tracing_mode="fake")(*inputs)
            run = native(whole, inputs)
            steps = (recorded, run, update, taken, tensors, places, written)
            # A draw within a rounding of a spline's knot or of a clamp may differ; with a wrong graph all draws do.
            if not any(self._same_step(*steps, twin=deepcopy(twin), seed=seed) for seed in NOISES):
                raise NotCompilable("the compiled step rounds too differently")
            # A number on the CPU, as an objective's weight, is read at a launch: then each step needs its own launch.
            on_gpu = all(tensor.device.type == "cuda" for tensor in inputs)
            compiled = launched_once(in_place, inputs[: len(taken) + 1]) if on_gpu else in_place
        self._recorded = recorded
        return compiled

    def _same_step(
        self, recorded: GraphModule, run: Callable[..., list[Tensor]], update: Update, taken: Sequence[Tensor],
        tensors: Sequence[Tensor], places: Sequence[int], written: set[int], *, twin: Optimizer, seed: int,
    ) -> bool:  # fmt: skip
        """Whether native code and torch's optimizer take the same step, on copies and with the same noise."""
        parameters = self._loss.parameters
        twins = {id(p): q for p, q in zip(_held(self._optimizer), _held(twin), strict=True)}
        with no_side_effects(self._loss.modules), torch.no_grad():
            torch.manual_seed(seed)
            loss, *gradients = recorded(*taken)
            gradients = [gradient.clone() for gradient in gradients]
        if self._clip_grad_norm is not None:
            gradients = clipped(gradients, self._clip_grad_norm)
        for p, gradient in zip(parameters, gradients, strict=True):
            if id(p) in twins:
                twins[id(p)].grad = gradient
        # The step of the class, as a scheduler wraps that of the object.
        type(twin).step(twin)
        copies = [tensor.clone() if place in written else tensor for place, tensor in enumerate(tensors)]
        with no_side_effects(self._loss.modules), torch.no_grad():
            torch.manual_seed(seed)
            native_loss = run(*taken, update.numbers().to(loss.device), *copies)[0]
        alike = agree(loss, native_loss, roundings=1000)
        before = [p.detach() for p in parameters]
        expected = [twins.get(id(p), p).detach() for p in parameters]
        largest, furthest = _largest(gradients), _largest([q - p for p, q in zip(before, expected, strict=True)])
        ours = [copies[place] for place in places]
        moves = zip(before, expected, ours, gradients, strict=True)
        return alike and all(_moved_alike(*move, largest, furthest) for move in moves)


def _place(parameter: Tensor, held: list[Tensor]) -> int:
    """Return where a parameter is among the tensors that a graph holds; one that it does not hold is added."""
    for place, tensor in enumerate(held):
        same_memory = tensor.data_ptr() == parameter.data_ptr() and tensor.numel() > 0
        same_layout = tensor.shape == parameter.shape and tensor.stride() == parameter.stride()
        if tensor is parameter or (same_memory and same_layout):
            return place
    held.append(parameter)
    return len(held) - 1


def _overlap(tensors: Sequence[Tensor], written: set[int]) -> bool:
    """Whether one that is written may be part of another: in which order they are read, nobody promises."""
    spans = []
    for place, tensor in enumerate(tensors):
        extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        if tensor.numel() > 0:
            spans.append((start, start + extent * tensor.element_size(), place in written))
    read_until, written_until = 0, 0
    for start, end, is_written in sorted(spans):
        if start < written_until or (is_written and start < read_until):
            return True
        read_until = max(read_until, end)
        written_until = max(written_until, end) if is_written else written_until
    return False


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _largest(tensors: Sequence[Tensor]) -> float:
    return max((tensor.abs().max().item() for tensor in tensors if tensor.numel() > 0), default=0.0)


def _moved_alike(
    before: Tensor, expected: Tensor, found: Tensor, gradient: Tensor, largest: float, furthest: float
) -> bool:
    """Whether two moves are one but for rounding, where the gradient is more than rounding.

    Adam divides a gradient by its own size: where all of it is rounding, so is the sign of the move. That of a bias
    in front of batch normalization is: what it adds is taken away again.

    Args:
        before: a parameter.
        expected: where torch's optimizer moved it.
        found: where the compiled step did.
        gradient: of the parameter.
        largest: element, in size, of the gradients of all parameters.
        furthest: move of all parameters.
    """
    if before.numel() == 0:
        return True
    eps = torch.finfo(before.dtype).eps
    sizes = gradient.abs()
    if not sizes.isfinite().all():
        return False
    # A parameter that nothing reads has no gradient, and no rounding either.
    clear = (sizes >= 1e-3 * sizes.max()) & (sizes >= 1000 * eps * largest) | (sizes.max() == 0)
    move, ours = expected - before, found - before
    off = torch.where(clear, (ours - move).abs() - 1e-2 * move.abs().max(), ours.abs() - 1.01 * furthest)
    return bool(off.max() <= 10 * eps * before.abs().max())
