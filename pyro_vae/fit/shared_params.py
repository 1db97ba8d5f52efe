"""Warn of parameters in Pyro's store that several fitted pairs share: the last fit moves those of all."""

import functools
import logging
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

from pyro.poutine.messenger import Messenger
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae.fit.parameters import Parameters
from pyro_vae.protocols import Program

logger = logging.getLogger("pyro_vae")

_fitted: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""References to the programs that each tensor of the store was fitted for."""


def say_what_is_shared(parameters: Parameters) -> None:
    """Warn, by name, of parameters that a program fitted earlier has as well, and remember these programs.

    Two plain functions that call ``pyro.param("loc", ...)`` have one parameter: fitting the one moves the other. The
    same program in a second pair shares its parameters as a module does, which needs no warning.
    """
    for name, tensor in parameters.store.items():
        users = [_innermost(program) for program in parameters.users[name]]
        earlier = [program for reference in _fitted.get(tensor, []) if (program := reference()) is not None]
        others = [program for program in earlier if not any(program == user for user in users)]
        if others:
            logger.warning(
                "fit: pyro.param %r is also a parameter of %s, which was fitted before: this fit starts from its value "
                "there, and moves it. Give it another name, or call pyro.clear_param_store() between the fits.",
                name,
                getattr(others[0], "__qualname__", type(others[0]).__qualname__),
            )
        new = [user for user in users if not any(user == program for program in earlier)]
        _fitted[tensor] = [*_fitted.get(tensor, []), *map(_reference, new)]


def _innermost(program: Program) -> Program:
    """Return the program that a partial, as of ``poutine.scale(model, 0.1)``, was made of."""
    while isinstance(program, functools.partial):
        inside = [arg for arg in program.args if callable(arg) and not isinstance(arg, Messenger)]
        program = inside[-1] if inside else program.func
    return program


def _reference(program: Program) -> Callable[[], Any]:
    try:
        return weakref.WeakMethod(program) if isinstance(program, MethodType) else weakref.ref(program)
    except TypeError:
        return lambda: program
