"""What results record of a cell's code that is not the package's own, and in words how it differs from that of now."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.evaluations import evaluations
from pyro_vae.parts import PARTS, parse_part, part_names
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.differences import differences
from pyro_vae.runtime.reading import shown

CODE, PACKAGES = "own_code", "packages"

FITTED_MODEL = "fitted_model "
"""Prefix of the keys of the cell whose model is taken over."""

_PACKAGE = re.compile(r"[\w.+!-]+( [\w.+!-]+)?")
"""A package's name and version, as :attr:`Cell.packages` has them."""


def record_of(cell: Cell) -> dict[str, dict[str, str]]:
    """Return the hashes of a cell's code and the packages of its parts, as far as there are any."""
    record = {CODE: _with_model(cell, CODE), PACKAGES: _with_model(cell, PACKAGES)}
    return {name: value for name, value in record.items() if value}


def _with_model(cell: Cell, name: str) -> dict[str, str]:
    """Return the code or the packages of a cell, and those of the cell whose model it takes over."""
    own: dict[str, str] = cell.own_code if name == CODE else cell.packages
    model = {} if cell.fitted_model is None else _with_model(cell.fitted_model, name)
    return own | {FITTED_MODEL + key: value for key, value in model.items()}


def needs_trust(cell: Cell) -> bool:
    """Whether a folder of the cell names code that is neither the package's nor an installed part."""
    return bool(_with_model(cell, CODE).keys() - _with_model(cell, PACKAGES).keys())


def changed_code(content: Mapping[str, Any], cell: Cell) -> str:
    """Return in words which code of a cell has changed since its results were written.

    Args:
        content: of the file of results.
        cell: with its code of now.

    Returns:
        "" if the settings differ, or if no code has changed.
    """
    if "settings" not in content or list(differences(content["settings"], cell.settings())):
        return ""
    code, packages, recorded = _with_model(cell, CODE), _with_model(cell, PACKAGES), content.get(CODE)
    # Earlier versions recorded no hashes, and did not look at the code of installed packages.
    hashes = recorded if isinstance(recorded, Mapping) else {}
    changed = [key for key in code if hashes.get(key) != code[key]]
    names = []
    for key in changed:
        name = _in_words(cell, key)
        if key in packages:
            before = _recorded_package(content.get(PACKAGES), key)
            package = packages[key] if before in (None, packages[key]) else f"{before}, now {packages[key]}"
            name += f" (installed package {package})"
        names.append(name)
    if not names:
        return ""
    if recorded is None:
        return f"the file of {' or '.join(names)} has changed since{', or was not recorded' if packages else ''}"
    if len(names) > 1:
        return f"the files of {' and '.join(names)} have changed since"
    return f"the file of {names[0]} has changed since"


def missing_package(recipe: Mapping[str, Any], recorded: Sequence[object]) -> str:
    """Return in words which package declared the first part or evaluation that is unknown now; "" if all are known.

    Args:
        recipe: the settings in the folder of a run, unchecked.
        recorded: the packages that its results record, unchecked.
    """
    for key, name in _unknown(recipe).items():
        packages = [package for record in recorded if (package := _recorded_package(record, key))]
        if packages:
            return (
                f" When the run was made, {shown(name)} was a part of the installed package {packages[0]}: install it."
            )
        return f" An installed package may have declared {shown(name)} when the run was made: install that package."
    return ""


def _in_words(cell: Cell, key: str) -> str:
    """Return a part of a cell as its reader writes it, from the key of its code."""
    if key.startswith(FITTED_MODEL) and cell.fitted_model is not None:
        return f"{_in_words(cell.fitted_model, key.removeprefix(FITTED_MODEL))} of the model that is taken over"
    return f"{argument(key)} {getattr(cell, key)}" if key in PARTS else key


def _recorded_package(packages: object, key: str) -> str | None:
    """Return the package that results record for a part; None if they record none, or something else."""
    package = packages.get(key) if isinstance(packages, Mapping) else None
    return package if isinstance(package, str) and _PACKAGE.fullmatch(package) else None


def _unknown(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of parts and evaluations that nothing declares, by the keys of their code."""
    fitted_model = recipe.get("fitted_model")
    # A cell makes the cell whose model it takes over first.
    of_model = _unknown(fitted_model) if isinstance(fitted_model, Mapping) else {}
    unknown = {FITTED_MODEL + key: name for key, name in of_model.items()}
    for part in PARTS:
        name = _name_in(recipe.get(part))
        if name and name not in part_names(part):
            unknown[part] = name
    measure = recipe.get("measure")
    for text in measure if isinstance(measure, list) else []:
        name = _name_in(text)
        if name and name not in evaluations():
            unknown[f"evaluation {name}"] = name
    return unknown


def _name_in(text: object) -> str | None:
    """Return the name that a package may declare in the text of a part; None if there is none."""
    try:
        name = parse_part("part", text)[0] if isinstance(text, str) else ""
    except ValueError:
        return None
    return name if name and ":" not in name else None
