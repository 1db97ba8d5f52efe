"""Pyro programs as callables: their arguments, and the parameters and modes of the modules that they run."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn.module import _Context
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyro_vae.errors import PairError
from pyro_vae.nn.further_tensors import FurtherArguments, observed_mask
from pyro_vae.protocols import Program
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_dense, in_short
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import plainly, told, with_place

LIBRARIES = ("torch", "pyro", "numpy")
"""Packages whose functions are not searched for modules: their globals hold none of the user's."""

_EMPTY_CELL = CellType()


def as_args(x: Any) -> tuple[Any, ...]:
    """Return the positional arguments of a pair: a tuple as it is, anything else as the only one."""
    return x if isinstance(x, tuple) else (x,)


def as_input(columns: Sequence[Tensor]) -> Any:
    """Return what model and guide are called with: a tensor, or a tuple of several. Undoes :func:`as_args`."""
    return columns[0] if len(columns) == 1 else tuple(columns)


@dataclass(frozen=True)
class WithKeywords:
    """A program whose last positional arguments are handed on by their names."""

    program: Program
    names: tuple[str, ...]

    def __call__(self, *args: Any) -> Any:
        """Run the program."""
        first = len(args) - len(self.names)
        return self.program(*args[:first], **dict(zip(self.names, args[first:], strict=True)))


def num_rows(arg: Any) -> int | None:
    """Return how many rows an argument has: a tensor's length, the sequences of a packed batch; None of another."""
    if isinstance(arg, PackedSequence):
        return int(arg.batch_sizes[0])
    return len(arg) if isinstance(arg, Tensor) and arg.ndim else None


def first_rows(args: tuple[Any, ...]) -> int | None:
    """Return how many rows the first argument that has rows has."""
    return next((count for count in map(num_rows, args) if count is not None), None)


def take_rows(arg: Any, rows: slice | Tensor) -> Any:
    """Return some rows of a tensor, or some sequences of a packed batch."""
    if not isinstance(arg, PackedSequence):
        return arg[rows.to(arg.device) if isinstance(rows, Tensor) else rows]
    values, lengths = pad_packed_sequence(arg, batch_first=True)
    rows = rows.cpu() if isinstance(rows, Tensor) else rows
    chosen = values[rows.to(values.device) if isinstance(rows, Tensor) else rows]
    return pack_padded_sequence(chosen, lengths[rows], batch_first=True, enforce_sorted=False)


def some_rows(args: tuple[Any, ...], rows: slice | Tensor, of: int | None) -> tuple[Any, ...]:
    """Return arguments with some rows of each that has ``of`` rows, and the others as they are."""
    return tuple(take_rows(arg, rows) if of is not None and num_rows(arg) == of else arg for arg in args)


def repeated(arg: Any, times: int) -> Any:
    """Return the rows of an argument so many times, all of them one after the other."""
    if isinstance(arg, PackedSequence):
        return take_rows(arg, torch.arange(int(arg.batch_sizes[0])).repeat(times))
    return arg.repeat(times, *(1,) * (arg.ndim - 1))


def check_programs(who: str, *programs: Any) -> None:
    """Refuse a class where an object belongs, and what cannot be called.

    Raises:
        ValueError: says what came.
    """
    for program in programs:
        if isinstance(program, type):
            came = f"the class {program.__name__}: make an object of it, {program.__name__}(...)"
        elif not callable(program):
            came = in_short(program)
        else:
            continue
        raise ValueError(f"{who}: model and guide must be Pyro programs that can be called with the data; got {came}.")


def check_arguments(args: tuple[Any, ...], **programs: Program) -> None:
    """Refuse programs that cannot be called with all of the data.

    A program that hands further tensors of a datum on, to a likelihood, says which in ``further_arguments``.

    Args:
        args: the positional arguments.
        programs: by what they are.

    Raises:
        PairError: says which, and with how many arguments.
    """
    for what, program in programs.items():
        called: Any = program.forward if isinstance(program, nn.Module) else program
        try:
            inspect.signature(called).bind(*args)
        except ValueError:
            # Its arguments cannot be seen from outside.
            continue
        except TypeError as error:
            raise PairError(
                f"the {what} cannot be called with the data, which are {len(args)} positional "
                f"argument{'' if len(args) == 1 else 's'} of model and guide: {error}."
            ) from error
        takes = getattr(program, "further_arguments", None)
        if isinstance(takes, FurtherArguments) and not takes.fit(len(args) - 1):
            fix = "Leave out what it does not take, as labels; or choose a model that takes it."
            if len(args) - 1 < takes.least:
                fix = f"Give those that are missing, as (x, {', '.join(takes.names)})."
            elif observed_mask(args[0], args[1:]) is not None and "observed" not in takes.names:
                fix = f"A mask of what was observed, as one of them is, needs {argument('model', 'masked_vae')}."
            raise PairError(
                f"the {what} cannot be called with the data, which are {len(args)} positional "
                f"argument{'' if len(args) == 1 else 's'} of model and guide: after x, {type(program).__name__} with "
                f"this likelihood takes {takes.in_words}. {fix}"
            )


def data_args(who: str, x: Any, *programs: Program) -> tuple[Any, ...]:
    """Return the positional arguments of a pair, floating data in a dtype that its parameters have.

    Data of a dtype that no parameter has are cast to the widest of the parameters', as :func:`pyro_vae.fit` does;
    without parameters of modules they stay as they are.

    Args:
        who: the caller, for messages.
        x: data ``(N, ...)``, or a tuple of all positional arguments.
        programs: the pair.

    Raises:
        ValueError: x is no dense tensor of rows, or a program is none.
    """
    check_programs(who, *programs)
    args = as_args(x)
    first = args[0] if args else None
    if not isinstance(first, Tensor) or first.ndim == 0:
        remedy = ": torch.from_numpy(x) makes one of an array" if isinstance(first, np.ndarray) else ""
        raise ValueError(
            f"{who}: x must be a tensor (N, ...), or a tuple that starts with one; got {in_short(first)}{remedy}."
        )
    check_dense(f"{who}: x", first)
    dtypes = {p.dtype for module in modules_of(*programs) for p in module.parameters() if p.is_floating_point()}
    if not dtypes:
        return args
    widest = functools.reduce(torch.promote_types, dtypes)
    return tuple(
        arg.to(widest) if isinstance(arg, Tensor) and arg.is_floating_point() and arg.dtype not in dtypes else arg
        for arg in args
    )


def modules_of(*programs: Program | None) -> list[nn.Module]:
    """Return the distinct modules that programs run, as far as can be seen from outside; None has none.

    A program itself, the object whose method it is, what a function closes over or calls by a global name, what a
    partial (as of ``poutine.scale(model, 0.1)``) was given, and the attributes of a callable object.
    """
    modules: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}
    left: list[Any] = list(reversed(programs))
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, nn.Module):
            modules[id(part)] = part
        elif isinstance(part, functools.partial):
            left += [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, MethodType):
            # What a module's own method reaches is inside the module, or global.
            left += [part.__func__, part.__self__, *getattr(part.__self__, "__dict__", {}).values()]
        elif isinstance(part, FunctionType):
            if part.__module__.partition(".")[0] not in LIBRARIES:
                left += [part.__globals__[name] for name in part.__code__.co_names if name in part.__globals__]
            left += [cell.cell_contents for cell in part.__closure__ or () if cell != _EMPTY_CELL]
        elif callable(part) and not isinstance(part, type):
            left += [type(part).__call__, *getattr(part, "__dict__", {}).values()]
    return list(modules.values())


@contextmanager
def plain_errors(who: str, what: str) -> Iterator[None]:
    """Say in one sentence what a first run of a program fails by.

    Args:
        who: the caller, or nothing.
        what: is run.

    Raises:
        PairError: for what torch refuses, as shapes that do not fit; out of memory goes through as it is.
        ValueError: for what the program or Pyro's validation refuses, in one line.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PairError(f"{who}{': ' if who else ''}{what} cannot be run on these data: {told(error)}") from error
    except ValueError as error:
        text = with_place(plainly(error), error)
        if str(error) == text:
            raise
        raise (PairError if isinstance(error, PairError) else ValueError)(text) from error


class _OpenContext(_Context):
    """A module's context in which ``pyro.param`` reaches Pyro's own store, as it does in a function."""

    def __enter__(self) -> None:
        self.active += 1
        self.used = True

    def __exit__(self, *_: object) -> None:
        self.active -= 1
        if not self.active:
            self.cache.clear()


@contextmanager
def local_params(*programs: Program | None) -> Iterator[None]:
    """Run programs so that each :class:`PyroModule` keeps its parameters to itself.

    By default Pyro names a module's parameters in one store for the process, and a second module with the same
    names is silently given the first one's values. A ``pyro.param`` statement in a module's ``forward`` has no
    module to keep it: it means the store, in which the user's own runs of the module have it, too. The user's setting
    is restored on the way out; where it is the local one already, Pyro's rules for it hold.
    """
    opened: list[Any] = []
    open_contexts = not pyro.settings.get("module_local_params")
    with pyro.settings.context(module_local_params=True):
        try:
            for owner in modules_of(*programs):
                for module in owner.modules():
                    context = module.__dict__.get("_pyro_context")
                    if context is None:
                        continue
                    # Pyro makes this state only in contexts that were constructed under the setting.
                    if not hasattr(context, "param_state"):
                        context.param_state = {"params": {}, "constraints": {}}
                    if open_contexts and type(context) is _Context:
                        context.__class__ = _OpenContext
                        opened.append(context)
            yield
        finally:
            for context in opened:
                context.__class__ = _Context


def buffers_of(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Return the buffers (running means) of modules, each with the module that owns it and its name there."""
    owners = [owner for module in modules for owner in module.modules()]
    return [(owner, name, b) for owner in owners for name, b in owner._buffers.items() if b is not None]


@contextmanager
def unmoved_buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Give modules copies of their buffers (running means) to write to, and the buffers back on the way out.

    What autograd holds on to is not written to.
    """
    buffers = buffers_of(modules)
    for owner, name, buffer in buffers:
        owner._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for owner, name, buffer in buffers:
            owner._buffers[name] = buffer


@contextmanager
def in_mode(modules: list[nn.Module], training: bool) -> Iterator[None]:
    """Put modules into train or evaluation mode, and every part of them back into its own on the way out."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
