"""A step of training as one compiled graph: gather, binarize, loss, gradient, clipping, and the optimizer's move."""

import itertools
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

from pyro_vae.fit.steps.gradients import Batch, BatchLoss, of_tensors, recorded_on, shapes_of
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


@dataclass(frozen=True)
class _Compiled:
    """One step as native code, for batches of one shape."""

    takes: tuple[Any, ...]
    """Shapes and dtypes of the batch."""
    update: Update
    """The optimizer's move, which the code holds."""
    gradients: GraphModule
    """The recorded graph of loss and gradients alone."""
    run: Callable[..., list[Tensor]]
    """From the batch's tensors, the KL weight and the update's numbers to [loss]; moves parameters and state."""


class WholeStep:
    """Take steps by native code for the first batch shape, and traced ones for other shapes (a loader's last batch).

    Noise, and up to rounding loss and move, are those of the gradient by Pyro and a step by torch's optimizer: before
    the first step both are taken on copies and compared. What cannot be compiled is traced, which is logged in one
    line.

    Args:
        loss: what the step descends.
        optimizer: one that :class:`~pyro_vae.fit.steps.updates.Update` knows; its state is kept up to date.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
    """

    def __init__(self, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None) -> None:
        self._loss, self._optimizer, self._clip_grad_norm = loss, optimizer, clip_grad_norm
        self._traced = SeparateStep(loss, optimizer, clip_grad_norm)
        self._compiled: _Compiled | None = None
        self._falls_back = False

    @property
    def level(self) -> str:
        """How the step really runs: "inductor", or what the traced step does."""
        return self._traced.level if self._falls_back else "inductor"

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch and return the loss; one that is not finite moves nothing."""
        if not self._falls_back and (self._compiled is None or not self._compiled.update.is_current):
            self._prepare(batch, beta)
        compiled = self._compiled
        if compiled is not None and compiled.takes == shapes_of(batch):
            numbers = compiled.update.numbers().to(beta.device, non_blocking=True)
            with torch.no_grad():
                loss = compiled.run(*as_args(batch), beta, numbers)[0]
        else:
            self.settle()
            loss = self._traced(batch, beta)
        # A loss that is not finite moved nothing and is no step; another device is not waited for.
        if compiled is not None and (loss.device.type != "cpu" or loss.isfinite()):
            compiled.update.advance()
        return loss

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph, or None where none runs."""
        compiled = self._compiled
        if compiled is None or compiled.takes != shapes_of(batch):
            return self._traced.replay(batch, beta) if compiled is not None or self._falls_back else None
        with torch.no_grad():
            return compiled.gradients(*as_args(batch), beta)

    def settle(self) -> None:
        """Write the number of steps into the optimizer's state."""
        self._traced.settle()
        if self._compiled is not None:
            self._compiled.update.write_steps()

    def _prepare(self, batch: Batch, beta: Tensor) -> None:
        self.settle()
        self._compiled, update = None, None
        try:
            with as_not_compilable():
                twin = deepcopy(self._optimizer)
                update = Update(self._optimizer, self._loss.parameters)
            self._compiled = self._compile(update, twin, batch, beta)
        except NotTraceable:
            # The traced step finds the same reason, and logs it.
            pass
        except NotCompilable as reason:
            logger.warning("fit: compile='inductor' is not possible here, the step is traced instead: %s", reason)
        finally:
            # Also where the user has interrupted the compiler.
            if self._compiled is None and update is not None:
                update.forget()
        self._falls_back = self._compiled is None

    def _compile(self, update: Update, twin: Optimizer, batch: Batch, beta: Tensor) -> _Compiled:
        """Record loss and gradients, add clipping and the update, and compile all of it as one graph.

        Raises:
            NotTraceable: the gradient cannot be recorded.
            NotCompilable: the step cannot be compiled, or does not do what it should.
        """
        taken, others = recorded_on(batch, beta)
        recorded, _ = record(of_tensors(self._loss.recordable()), taken, others, self._loss.modules)
        # The graph takes the tensors that it reads (parameters, data, buffers) as its first inputs.
        gradients, held = lift(recorded)
        num_read = len(held)
        # `_place` adds the parameters that the graph does not read; the optimizer's state comes last.
        places = [_place(p, held) for p in self._loss.parameters]
        tensors = [tensor.detach() for tensor in [*held, *itertools.chain.from_iterable(update.tensors)]]
        written = {*(places[place] for place in update.places), *range(len(held), len(tensors))}
        if _overlap(tensors, written):
            raise NotCompilable("parameters share their memory with other tensors")

        def step(*arguments: Tensor) -> list[Tensor]:
            given, numbers, tensors = arguments[: len(taken)], arguments[len(taken)], arguments[len(taken) + 1 :]
            loss, *slopes = gradients(*tensors[:num_read], *given)
            if self._clip_grad_norm is not None:
                slopes = clipped(slopes, self._clip_grad_norm)
            parameters, state = [tensors[place] for place in places], iter(tensors[len(held) :])
            states = [[next(state) for _ in of_parameter] for of_parameter in update.tensors]
            finite = loss.isfinite()
            updated = update(parameters, slopes, states, numbers)
            for place, of_parameter, values in zip(update.places, states, updated, strict=True):
                # A loss that is not finite changes nothing.
                for tensor, value in zip([parameters[place], *of_parameter], values, strict=True):
                    tensor.copy_(torch.where(finite, value, tensor))
            return [loss]

        inputs = [*taken, update.numbers().to(beta.device), *tensors]

        def in_place(*arguments: Tensor) -> list[Tensor]:
            return run(*arguments, *tensors)

        with as_not_compilable():
            run = native(make_fx(step, tracing_mode="fake")(*inputs), inputs)
            # A draw within a rounding of a spline's knot or of a clamp may differ; with a wrong graph all draws do.
            if not any(
                self._same_step(recorded, run, inputs, len(taken), places, written, twin=deepcopy(twin), seed=seed)
                for seed in NOISES
            ):
                raise NotCompilable("the compiled step rounds too differently")
            # A number on the CPU, as an objective's weight, is read at a launch: then each step needs its own launch.
            on_gpu = all(tensor.device.type == "cuda" for tensor in inputs)
            compiled = launched_once(in_place, inputs[: len(taken) + 1]) if on_gpu else in_place
        return _Compiled(shapes_of(batch), update, recorded, compiled)

    def _same_step(
        self, gradients: GraphModule, run: Callable[..., list[Tensor]], inputs: Sequence[Tensor], num_taken: int,
        places: Sequence[int], written: set[int], *, twin: Optimizer, seed: int,
    ) -> bool:  # fmt: skip
        """Whether native code and torch's optimizer take the same step, on copies and with the same noise.

        The code's inputs are the ``num_taken`` ones of the graph, the update's numbers, and the tensors among which are
        the parameters, at their places. ``twin`` is a copy of the optimizer, whose copies of the parameters are moved.
        """
        taken, numbers, tensors = inputs[:num_taken], inputs[num_taken], inputs[num_taken + 1 :]
        parameters = self._loss.parameters
        twins = {id(p): q for p, q in zip(_held(self._optimizer), _held(twin), strict=True)}
        with no_side_effects(self._loss.modules), torch.no_grad():
            torch.manual_seed(seed)
            loss, *slopes = gradients(*taken)
            slopes = [slope.clone() for slope in slopes]
        if self._clip_grad_norm is not None:
            slopes = clipped(slopes, self._clip_grad_norm)
        for p, slope in zip(parameters, slopes, strict=True):
            if id(p) in twins:
                twins[id(p)].grad = slope
        # The step of the class, as a scheduler wraps that of the object.
        type(twin).step(twin)
        copies = [tensor.clone() if place in written else tensor for place, tensor in enumerate(tensors)]
        with no_side_effects(self._loss.modules), torch.no_grad():
            torch.manual_seed(seed)
            native_loss = run(*taken, numbers, *copies)[0]
        before = [p.detach() for p in parameters]
        expected = [twins.get(id(p), p).detach() for p in parameters]
        largest, furthest = _largest(slopes), _largest([q - p for p, q in zip(before, expected, strict=True)])
        moves = zip(before, expected, [copies[place] for place in places], slopes, strict=True)
        return agree(loss, native_loss, roundings=1000) and all(
            _moved_alike(*move, largest, furthest) for move in moves
        )


def _place(parameter: Tensor, held: list[Tensor]) -> int:
    """Return where a parameter is among the tensors that a graph reads; one that it does not read is added."""
    for place, tensor in enumerate(held):
        same_memory = tensor.data_ptr() == parameter.data_ptr() and tensor.numel() > 0
        same_layout = tensor.shape == parameter.shape and tensor.stride() == parameter.stride()
        if tensor is parameter or (same_memory and same_layout):
            return place
    held.append(parameter)
    return len(held) - 1


def _overlap(tensors: Sequence[Tensor], written: set[int]) -> bool:
    """Whether a tensor that is written may share memory with another: the order of reads and writes is not fixed."""
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
    before: Tensor, expected: Tensor, moved: Tensor, gradient: Tensor, largest: float, furthest: float
) -> bool:
    """Whether two moves differ by rounding alone, where the gradient is more than rounding.

    Adam divides a gradient by its own size: where all of it is rounding, so is the sign of the move. A bias in front
    of batch normalization has such a gradient, since the normalization takes it away again.

    Args:
        before: a parameter.
        expected: where torch's optimizer moved it.
        moved: where the compiled step moved it.
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
    move, ours = expected - before, moved - before
    off = torch.where(clear, (ours - move).abs() - 1e-2 * move.abs().max(), ours.abs() - 1.01 * furthest)
    return bool(off.max() <= 10 * eps * before.abs().max())
