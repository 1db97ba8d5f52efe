"""A grid of cells: all combinations of settings, a list of cells, or both, from Python or from a YAML file."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyro_vae.comparison.cell import MEASUREMENT, MODEL_SETTINGS, Cell, with_sides
from pyro_vae.errors import RunError
from pyro_vae.parts import NETWORK
from pyro_vae.runtime.reading import Place, read_yaml_with_lines, shown
from pyro_vae.runtime.trust import names_from
from pyro_vae.runtime.wording import did_you_mean

DESIGNS = ("joint", "frozen")
KEYS = ("design", "common", "grid", "cells", "fitted_model")

FOLDERS = "folders"
"""Key of the list of the cells' folders, in their order, in a grid that :func:`pyro_vae.compare` wrote."""

SETTINGS = tuple(field.name for field in fields(Cell) if field.name != "fitted_model")

NAMES = (*SETTINGS, NETWORK)
"""What a grid may set of its cells."""

MOST_CELLS = 100_000
"""Largest number of cells of one grid."""


@dataclass(frozen=True)
class Grid:
    """The cells of a comparison, in their order.

    Args:
        cells: at least one, no two of them equal.

    Raises:
        ValueError: there are no cells, or two are equal.

    >>> grid = Grid.of({"grid": {"guide": ["mean_field", "iaf"], "seed": [0, 1]}, "common": {"epochs": 5}})
    >>> len(grid.cells), grid.varying
    (4, ('guide', 'seed'))
    """

    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("a grid needs at least one cell: give lists of settings under `grid`, or cells.")
        seen: dict[str, int] = {}
        for number, cell in enumerate(self.cells):
            if cell.hash in seen:
                raise ValueError(
                    f"cells {seen[cell.hash] + 1} and {number + 1} of the grid are the same ({cell.label(self.varying)}"
                    f", hash {cell.hash}): leave one out."
                )
            seen[cell.hash] = number

    @classmethod
    def of(cls, description: Mapping[str, Any], lines: Mapping[Place, int] | None = None, name: str = "grid") -> "Grid":
        """Return the grid of a description, as YAML gives it.

        Args:
            description: ``grid``, from a setting to the list of its values, of which all combinations are taken;
                ``cells``, a list of settings; ``common``, settings of all cells; ``design``, "joint" (each cell fits
                its own model) or "frozen" (each model is fitted once, with the settings of ``fitted_model``, and then
                the guides of all its cells are fitted to it).
            lines: the line of each value in its file, for messages.
            name: of the file, for messages.

        Raises:
            ValueError: a key or setting is unknown (the nearest is suggested), a value is wrong, the grid is empty, or
                two cells are equal.
        """
        reader = _Reader(name, lines or {})
        reader.check_keys({key: description[key] for key in description if key != FOLDERS}, KEYS, (), "key")
        design = description.get("design", "joint")
        if design not in DESIGNS:
            raise reader.error(("design",), f"design must be one of {', '.join(DESIGNS)}; got {design!r}.")
        if "fitted_model" in description and design != "frozen":
            raise reader.error(
                ("fitted_model",), "`fitted_model` is for `design: frozen`, whose cells take over its model."
            )
        common, fitted_model = (reader.settings(description.get(key), (key,)) for key in ("common", "fitted_model"))
        axes = reader.axes(description.get("grid"))
        listed = description.get("cells") or []
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise reader.error(("cells",), f"cells must be a list of settings, one for each cell; got {shown(listed)}.")
        number = math.prod(len(values) for values in axes.values()) + len(listed)
        if number > MOST_CELLS:
            raise reader.error(("grid",), f"a grid has at most {MOST_CELLS:,} cells; this one has {number:,}.")
        combinations = itertools.product(*axes.values()) if axes else []
        descriptions = [dict(zip(axes, values, strict=True)) for values in combinations]
        for index, settings in enumerate(listed):
            descriptions.append(reader.settings(settings, ("cells", index), (*NAMES, "fitted_model")))
        if not descriptions:
            raise reader.error((), "the grid is empty: give lists of settings under `grid`, or settings under `cells`.")
        cells = []
        for settings in descriptions:
            settings = with_sides({**common, **settings})
            if design == "frozen":
                # The model's settings are those of the cell, all others those that the grid's cells have in common.
                # But guide and seed are the model's and the default one, and settings of the measurement are left out.
                shared = {key: value for key, value in settings.items() if key in MODEL_SETTINGS}
                others = {key: common[key] for key in common if key not in ("guide", "seed", *MEASUREMENT)}
                settings["fitted_model"] = {**others, **shared, **fitted_model}
            cells.append(reader.cell(settings, ()))
        try:
            return cls(tuple(cells))
        except ValueError as error:
            raise reader.error((), str(error)) from error

    @classmethod
    def read(cls, path: str | Path, *, trust: bool = False) -> "Grid":
        """Return the grid of a YAML file.

        Args:
            path: the file.
            trust: whether it may name classes that are not the package's, whose files are then imported.

        Raises:
            ValueError: the file is missing, is no YAML, names a class that is not trusted, or is refused by :meth:`of`;
                the message names the line.
        """
        path = Path(path)
        description, lines = read_yaml_with_lines(path)
        if not isinstance(description, Mapping):
            raise ValueError(f"{path} must hold {', '.join(KEYS)}; it holds {shown(description)}.")
        with names_from(path, trust=trust):
            return cls.of(description, lines, str(path))

    @property
    def varying(self) -> tuple[str, ...]:
        """The settings by which its cells differ."""
        return tuple(name for name in SETTINGS if len({getattr(cell, name) for cell in self.cells}) > 1)

    @property
    def fitted_models(self) -> tuple[Cell, ...]:
        """The distinct cells whose models others take over."""
        return tuple(dict.fromkeys(cell.fitted_model for cell in self.cells if cell.fitted_model is not None))

    def description(self) -> dict[str, Any]:
        """Return the cells and their folders as plain values for YAML, from which :meth:`of` makes the grid again."""
        return {"cells": [cell.settings() for cell in self.cells], FOLDERS: [cell.hash for cell in self.cells]}


class _Reader:
    """Checks the values of a description, and names their lines in messages."""

    def __init__(self, name: str, lines: Mapping[Place, int]) -> None:
        self._name, self._lines = name, lines

    def error(self, place: Place, message: str) -> ValueError:
        """Return an error that names the line of a place, or of the value around it."""
        while place and place not in self._lines:
            place = place[:-1]
        where = f"{self._name}, line {self._lines[place]}" if place in self._lines and place else self._name
        return ValueError(f"{where}: {message}")

    def check_keys(self, value: Any, known: Sequence[str], place: Place, what: str) -> None:
        """Raise an error for a value that is no mapping, and for an unknown key; the nearest key is suggested."""
        if not isinstance(value, Mapping):
            raise self.error(place, f"expected `key: value` lines, with {', '.join(known)}; got {shown(value)}.")
        for key in value:
            if key not in known:
                hint = did_you_mean(str(key), known)
                if set(str(key)) & set("()='\""):
                    hint = " In YAML's braces a text with a comma needs quotes around it: {guide: 'name(a=1, b=2)'}."
                raise self.error((*place, key), f"there is no {what} {key!r}.{hint} There are {', '.join(known)}.")

    def settings(self, settings: Any, place: Place, known: Sequence[str] = NAMES) -> dict[str, Any]:
        """Return settings, after checking each name and each value separately."""
        settings = {} if settings is None else settings
        self.check_keys(settings, known, place, "setting")
        for name, value in settings.items():
            # A fitted model is checked with all settings of its cell.
            if name != "fitted_model":
                self.cell({name: value}, (*place, name))
        return dict(settings)

    def axes(self, axes: Any) -> dict[str, list[Any]]:
        """Return the list of values of each setting, after checking each value."""
        axes = {} if axes is None else axes
        self.check_keys(axes, NAMES, ("grid",), "setting")
        for name, values in axes.items():
            if not isinstance(values, list | tuple) or not values:
                raise self.error(("grid", name), f"{name} under `grid` must be a list of values; got {shown(values)}.")
            for number, value in enumerate(values):
                self.cell({name: value}, ("grid", name, number))
        return {name: list(values) for name, values in axes.items()}

    def cell(self, settings: Mapping[str, Any], place: Place) -> Cell:
        """Return the cell of the settings at a place, with the default for all others."""
        try:
            return Cell.of(settings)
        except RunError:
            raise
        except ValueError as error:
            raise self.error(place, str(error)) from error
