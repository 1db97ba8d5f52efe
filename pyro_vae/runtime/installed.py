"""Find the parts that installed packages declare as entry points, without importing them."""

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

PREFIX = "pyro_vae."
"""Prefix of the names of groups, as in ``pyro_vae.guides``."""


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, without importing any.

    Args:
        group: without the prefix, as ``"guides"``.
    """
    return tuple(point for point in _all_on(tuple(sys.path)) if point.group == f"{PREFIX}{group}")


def declares(path: str) -> bool:
    """Whether an installed package declares a class as one of its parts.

    Args:
        path: ``package.module:ClassName``.
    """
    return any(point.value.replace(" ", "") == path for point in _all_on(tuple(sys.path)))


def package_of(point: EntryPoint) -> str:
    """Return the name of the package that declares an entry point."""
    return point.dist.name if point.dist is not None else point.module


@lru_cache(maxsize=8)
def _all_on(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:  # noqa: ARG001 (what is installed depends on it)
    points = entry_points()
    groups = sorted(group for group in points.groups if group.startswith(PREFIX))
    return tuple(point for group in groups for point in points.select(group=group))
