"""Run programs without lasting effects: modules, buffers, Pyro's store and random numbers are put back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.programs.modules import buffers_of, modules_of
from pyro_vae.protocols import Program
from pyro_vae.runtime.random_state import unmoved_generators

VERIFICATION_SEED = 1913
"""The seed of verification runs: any but the one under which a graph was recorded."""


class Undo:
    """Takes programs and Pyro's store back to their state at its construction.

    Some programs make their parameters on their first run, of the size of the data that they are run on.
    """

    def __init__(self, *programs: Program | None) -> None:
        self._owners = modules_of(*programs)
        self._names = set(pyro.get_param_store())
        modules = [vars(part) for owner in self._owners for part in owner.modules()]
        self._saved = [(part, {key: (value, _copied(value)) for key, value in part.items()}) for part in modules]
        self._parameters = {id(parameter) for owner in self._owners for parameter in owner.parameters()}
        contexts = {id(part["_pyro_context"]): part["_pyro_context"] for part in modules if "_pyro_context" in part}
        self._used = [(context, context.used) for context in contexts.values()]

    @property
    def made(self) -> list[Tensor]:
        """The parameters that were made since."""
        store = pyro.get_param_store()
        stored = [store._params[name] for name in store if name not in self._names]
        return stored + [p for owner in self._owners for p in owner.parameters() if id(p) not in self._parameters]

    def __call__(self) -> None:
        """Take everything back."""
        store = pyro.get_param_store()
        for name in set(store) - self._names:
            del store[name]
        for attributes, before in self._saved:
            attributes.clear()
            for key, (value, copied) in before.items():
                attributes[key] = value
                if copied is not None:
                    value.clear()
                    value.extend(copied) if isinstance(value, list) else value.update(copied)
        for context, was_used in self._used:
            context.used = was_used


@contextmanager
def undone_on_failure(*programs: Program) -> Iterator[None]:
    """Leave programs as they were where an exception comes out."""
    undo = Undo(*programs)
    try:
        yield
    except BaseException:
        undo()
        raise


def _copied(value: Any) -> Any:
    """Return a copy of a container that a program may write to, or None of anything else."""
    return copy(value) if isinstance(value, dict | list | set) else None


@contextmanager
def probing(*programs: Program | None) -> Iterator[None]:
    """Run programs to learn of them: without gradients and Pyro's validation, and with nothing left of it."""
    with torch.no_grad(), no_side_effects(modules_of(*programs)), pyro.validation_enabled(False):
        yield


@contextmanager
def no_side_effects(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put buffers (running means) and random number generators back as they were, and all else where it fails."""
    saved = [(*buffer, buffer[-1].clone()) for buffer in buffers_of(modules)]
    try:
        with unmoved_generators(), undone_on_failure(*modules):
            yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in saved:
                owner._buffers[name] = buffer
                # Writing to one that autograd holds on to would spoil a backward pass to come.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
