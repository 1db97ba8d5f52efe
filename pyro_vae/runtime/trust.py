"""Check which classes a file may name: declared parts, and others only if the user trusts the file."""

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyro.infer import ELBO
from torch import nn

from pyro_vae.errors import RunError
from pyro_vae.runtime.arguments import are_flags, argument, named_as
from pyro_vae.runtime.installed import declares

NAMESPACES = (
    "pyro_vae.guides", "pyro_vae.models", "pyro_vae.nn", "pyro_vae.objectives",
    "pyro.distributions.transforms", "pyro.infer", "pyro.nn", "torch.nn.modules",
)  # fmt: skip
"""Packages whose import has no side effects, and whose networks and objectives only compute."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


_refuse: ContextVar[Callable[[str], None] | None] = ContextVar("refuse", default=None)
"""Raises an error for a class that a file may not name; None if any class may be named."""


@contextmanager
def names_from(where: object, *, trust: bool, named: Collection[str] = ()) -> Iterator[None]:
    """Check, inside the block, each class that a file names against what the user trusts.

    Args:
        where: the file, for messages.
        trust: whether it may name any class.
        named: classes that it may name without ``trust``, as the user has named them as well.
    """
    how = _how_to_trust()

    def refuse(name: str) -> None:
        if name not in named:
            raise _refusal(str(where), name, how)

    token = _refuse.set(None if trust else refuse)
    try:
        with named_as("settings"):
            yield
    finally:
        _refuse.reset(token)


def require_trusted(name: str) -> None:
    """Refuse to import a class that only a file names, unless it is a declared part.

    Declared parts are those of this package, of Pyro and of torch, and those among the entry points of an installed
    package: the user has chosen to run its code by installing it.

    Args:
        name: ``path/to/file.py:ClassName`` or ``package.module:ClassName``.

    Raises:
        RunError: the class may not be imported; the message says how to allow it.
    """
    refuse = _refuse.get()
    if refuse is not None and not is_trusted(name):
        refuse(name)


def _how_to_trust() -> str:
    """Return how the reader of a message can trust a file."""
    return f"{'add' if are_flags() else 'pass'} {argument('trust', True)}"


def _refusal(where: str, name: str, how: str) -> RunError:
    """Return an error that says why a class is not imported, and how to allow it."""
    return RunError(
        f"{where} names the class {name}, which is no part of pyro-vae, Pyro or torch; it was not loaded, because "
        f"loading it runs its code: if you trust that code, {how}."
    )


def is_declared(module: str) -> bool:
    """Whether a module belongs to packages that only define parts.

    >>> is_declared("pyro_vae.guides.iaf"), is_declared("os"), is_declared("torch.nn.modules.activation")
    (True, False, True)
    """
    inside = any(module == name or module.startswith(f"{name}.") for name in NAMESPACES)
    return inside and _PATH.fullmatch(module) is not None and "__main__" not in module


def is_trusted(name: str) -> bool:
    """Whether a class, ``package.module:ClassName``, is a declared part, or one that an installed package declares."""
    return is_declared(name.rpartition(":")[0]) or declares(name)


def trusted_class(path: str, where: str, trust: bool) -> type:
    """Return the class that a file names as ``package.module:ClassName``, after checking that it is a part.

    Raises:
        RunError: the class is no part, or is from a package that the user does not trust.
        ImportError: there is no such module.
        AttributeError: there is no such class in it.
    """
    module, _, name = path.partition(":")
    trust = trust or declares(path)
    if not (trust or is_declared(module)):
        raise _refusal(where, path, _how_to_trust())
    if not (_PATH.fullmatch(module) and _PATH.fullmatch(name.replace("<locals>", "locals"))):
        raise RunError(f"{where}: {path!r:.60} is no name of a class.")
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    is_part = inspect.isclass(target) and issubclass(target, nn.Module | ELBO)
    if not is_part or not (trust or is_declared(target.__module__)):
        raise RunError(f"{where}: {path} is no network and no objective: only such classes are built from a folder.")
    return target
