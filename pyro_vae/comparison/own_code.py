"""The code of a run that is not the package's own: files of the user, and parts of installed packages."""

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from pyro_vae import evaluation
from pyro_vae.comparison.evaluations import find_evaluation
from pyro_vae.parts import PARTS, find_part, named_parts, parse_part
from pyro_vae.runtime.installed import installed, package_of

OURS = "pyro_vae"
"""The package whose version stands for the code of its parts."""


def code_of(parts: Mapping[str, str], measure: Sequence[str]) -> dict[str, str]:
    """Return the hash of the file of each class or function that is not the package's own.

    Args:
        parts: the text of each of :data:`PARTS`.
        measure: the evaluations' texts.

    Returns:
        Hashes by the part's name, by ``guide.OPTION.INDEX`` for a part that an option of the guide names, by
        ``FILE.py:function``, or by ``evaluation NAME`` for an installed one.
    """
    hashes = {}
    for key, (found, point) in _not_ours(parts, measure).items():
        hashes[key] = _file_hash(found) if point is None else _installed_hash(found, _name_and_version(point))
    return hashes


def packages_of(parts: Mapping[str, str], measure: Sequence[str]) -> dict[str, str]:
    """Return the name and version of the package of each part that is an installed package's, by the keys of its code.

    Args: as for :func:`code_of`.
    """
    points = {key: point for key, (_, point) in _not_ours(parts, measure).items()}
    return {key: _name_and_version(point) for key, point in points.items() if point is not None}


def _not_ours(parts: Mapping[str, str], measure: Sequence[str]) -> dict[str, tuple[Any, EntryPoint | None]]:
    """Return the classes and functions that are not the package's own, each with its entry point if it has one."""
    found: dict[str, tuple[Any, EntryPoint | None]] = {}
    for key, (kind, text) in _with_named(parts).items():
        name = parse_part(kind, text)[0]
        point = _declared(f"{PARTS[kind]}s", name)
        if ":" in name or point is not None:
            found[key] = find_part(kind, name), point
    for text in measure:
        name = parse_part("measure", text)[0]
        # What a package declares under the name of one of ours is left out.
        point = None if name in evaluation.__all__ else _declared("evaluations", name)
        if ":" in name or point is not None:
            key = name if ":" in name else f"evaluation {name}"
            found[key] = find_evaluation(name).function, point
    return {key: (own, point) for key, (own, point) in found.items() if point is None or not _is_ours(own)}


def _with_named(parts: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return kind and text of each part, and of each part that the options of one name."""
    found = {part: (part, text) for part, text in parts.items()}
    for part, text in parts.items():
        found |= {f"{part}.{place}": inner for place, inner in named_parts(part, text).items()}
    return found


def _declared(group: str, name: str) -> EntryPoint | None:
    return next((point for point in installed(group) if point.name == name), None)


def _is_ours(own: Any) -> bool:
    return str(own.__module__).partition(".")[0] == OURS


def _name_and_version(point: EntryPoint) -> str:
    return package_of(point) if point.dist is None else f"{package_of(point)} {point.dist.version}"


@cache
def _file_hash(own: Any) -> str:
    """Return the hash of the file that defines a class or a function, as the file was at the first call.

    A cell calls it right after the import: later changes of the file do not run in this process.
    """
    return hashlib.sha256(Path(inspect.getfile(own)).read_bytes()).hexdigest()


@cache
def _installed_hash(own: Any, package: str) -> str:
    """Return the hash of the file of the module that an installed class or function is of, at the first call.

    A decorated function keeps its module, while its code is of the decorator's file. A module without a file that can
    be read, as in an archive, is known by its package's name and version.
    """
    try:
        content = Path(inspect.getfile(sys.modules[own.__module__])).read_bytes()
    except (KeyError, OSError, TypeError):
        content = package.encode()
    return hashlib.sha256(content).hexdigest()
