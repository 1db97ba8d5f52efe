"""What the cells of a comparison say together: one tidy table, and paired statistics on the same test images."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.grid import FOLDERS, SETTINGS, Grid
from pyro_vae.comparison.quantities import Quantity, is_estimate
from pyro_vae.comparison.results import ELBO, UNFINISHED, CellResult, read_result
from pyro_vae.comparison.task import CELLS
from pyro_vae.errors import RunError
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.reading import Fields, read_yaml, require_inside
from pyro_vae.runtime.trust import names_from
from pyro_vae.statistics.ranking import PairedDifference, Ranking, compare_all, paired_difference

if TYPE_CHECKING:
    import pandas as pd

GRID, CSV, PARQUET = "grid.yaml", "results.csv", "results.parquet"

HASH = re.compile(r"[0-9a-f]{16}")
"""A cell's, which names its folder."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """Cells that differ by their seed alone."""

    name: str
    results: Sequence[CellResult] = field(repr=False)
    """Those that finished, by seed."""

    def values(self, quantity: str) -> np.ndarray:
        """Return a quantity of each test image, float64 ``(seeds, images)``, NaN where an image is left out.

        Args:
            quantity: one of :attr:`CellResult.quantities`, or a name in :attr:`CellResult.per_datum`.

        Raises:
            ValueError: no cell has finished, the quantity was not measured, or cells have other test images.
        """
        if not self.results:
            raise ValueError(f"{self.name}: none of its cells has finished.")
        rows = []
        for result in self.results:
            values = result.values_of(quantity)
            if values is None:
                there = [name for name in result.quantities if result.values_of(name) is not None]
                raise ValueError(
                    f"{self.name}: {quantity} was not measured; there are {', '.join(there)}"
                    f"{'' if result.cell.num_gaps else ' (gaps: set num_gaps)'}."
                )
            rows.append(values.double().numpy())
        _require_same_images(self.results)
        return np.stack(rows)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`pyro_vae.compare` returns; ``print`` it for the table and the ranking."""

    path: Path
    results: Sequence[CellResult] = field(repr=False)
    """A result a cell, in the grid's order; those that failed have an ``error``."""
    varying: tuple[str, ...]
    """Settings by which the cells differ."""

    @classmethod
    def read(cls, path: str | Path, *, trust: bool = False) -> "Comparison":
        """Return the comparison in a folder, as far as it is computed.

        Args:
            path: the folder.
            trust: import the classes that it names, whosever they are.

        Raises:
            RunError: the folder has no comparison, or one that is damaged or of another version, or that names a class
                that is not trusted.
        """
        path = Path(path).resolve()
        file = path / GRID
        if not file.is_file():
            raise RunError(f"{path} holds no comparison: it has no {GRID}.")
        fields = Fields.of(read_yaml(file, path), str(file))
        try:
            with names_from(file, trust=trust):
                grid = Grid.of(fields.values)
        except RunError:
            raise
        except ValueError as error:
            raise RunError(f"{file} cannot be read: {error}") from error
        folders = fields.texts(FOLDERS)
        if len(folders) != len(grid.cells) or not all(HASH.fullmatch(folder) for folder in folders):
            raise fields.error(FOLDERS, f"{len(grid.cells)} hashes of 16 hex digits, one for each cell")
        for folder in folders:
            require_inside(path / CELLS / folder, path)
        results = [
            read_result(path / CELLS / folder, cell, folder) for cell, folder in zip(grid.cells, folders, strict=True)
        ]
        return cls(path, results, grid.varying)

    @classmethod
    def of(cls, grid: Grid, path: Path) -> "Comparison":
        """Return the comparison of a grid whose cells were computed in a folder.

        Raises:
            RunError: a cell's folder is damaged or of another version.
        """
        return cls(path, [read_result(path / CELLS / cell.hash, cell) for cell in grid.cells], grid.varying)

    @property
    def finished(self) -> list[CellResult]:
        """The cells that have results."""
        return [result for result in self.results if result.finished]

    @property
    def failed(self) -> list[CellResult]:
        """The cells that have none."""
        return [result for result in self.results if not result.finished]

    @cached_property
    def configurations(self) -> dict[str, Configuration]:
        """Cells that differ by their seed alone, together, by what tells them from the others."""
        names = [name for name in self.varying if name != "seed"]
        groups: dict[Cell, list[CellResult]] = {}
        for result in self.results:
            groups.setdefault(replace(result.cell, seed=0), []).append(result)
        labels = [cell.label(names) for cell in groups]
        found = {}
        for (cell, members), label in zip(groups.items(), labels, strict=True):
            if labels.count(label) > 1 and cell.fitted_model is not None:
                label = f"{label}, model {cell.fitted_model.hash}"
            done = sorted((m for m in members if m.finished), key=lambda member: member.cell.seed)
            found[label] = Configuration(label, done)
        return found

    def difference(self, a: str, b: str, quantity: str = "elbo") -> PairedDifference:
        """Return by how many nats an image configuration ``a`` is above ``b``, image by image and seed by seed.

        The spread over seeds is that of the :meth:`ranking`, estimated from all configurations; of ``a`` and ``b``
        alone where the configurations have no images or seeds in common.

        Raises:
            ValueError: there is no such configuration, or they were not measured on the same images from the same
                seeds.
        """
        pair = [self._configuration(name) for name in (a, b)]
        _require_same_images([result for one in pair for result in one.results])
        shared = set.intersection(*({result.cell.seed for result in one.results} for one in pair))
        if not shared:
            raise ValueError(f"{a} and {b} have no seed in common: nothing is paired.")
        cut = [replace(one, results=[r for r in one.results if r.cell.seed in shared]) for one in pair]
        values = [one.values(quantity) for one in cut]
        try:
            comparisons = self.ranking(quantity).comparisons
        except ValueError:
            return paired_difference(*values)
        for found in comparisons:
            if {found.first, found.second} == {a, b}:
                return found.difference if found.first == a else found.difference.reversed()
        return paired_difference(*values)

    def ranking(self, quantity: str = "elbo") -> Ranking:
        """Return all configurations by a quantity, tied where they cannot be told apart.

        Only seeds count that each configuration has; one without any is left out. Computed once for each quantity,
        whatever shows it.

        Raises:
            ValueError: fewer than two have finished on the same images, or neither more nor less of the quantity is
                better.
        """
        if quantity not in self._rankings:
            self._rankings[quantity] = self._rank(quantity)
        return self._rankings[quantity]

    @cached_property
    def _rankings(self) -> dict[str, Ranking]:
        return {}

    def _rank(self, quantity: str) -> Ranking:
        there = [one for one in self.configurations.values() if one.results]
        if len(there) < 2:
            raise ValueError(f"a ranking needs two configurations with finished cells; there are {len(there)}.")
        _require_same_images([result for one in there for result in one.results])
        shared = set.intersection(*({result.cell.seed for result in one.results} for one in there))
        if not shared:
            raise ValueError("the configurations have no seed in common: nothing is paired.")
        values = {
            one.name: replace(one, results=[r for r in one.results if r.cell.seed in shared]).values(quantity)
            for one in there
        }
        return compare_all(values, higher_is_better=self._better(quantity) == "higher")

    @property
    def unpaired_seeds(self) -> list[int]:
        """Seeds of finished cells that rankings leave out, as some configuration has finished without them."""
        seeds = [{result.cell.seed for result in one.results} for one in self.configurations.values() if one.results]
        return sorted({seed for own in seeds for seed in own if not all(seed in others for others in seeds)})

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """What any finished cell has measured, by name."""
        return {name: there for result in self.finished for name, there in result.quantities.items()}

    @property
    def ranked(self) -> list[str]:
        """The quantities that configurations are compared by: each finished cell has them, and one value is better."""
        return [
            name
            for name, quantity in self.quantities.items()
            if quantity.better and all(result.values_of(name) is not None for result in self.finished)
        ]

    def _better(self, quantity: str) -> str:
        """Return "higher" or "lower"."""
        found = self.quantities.get(quantity)
        if found is None or not found.better:
            raise ValueError(
                f"configurations are not ranked by {quantity}; there are {', '.join(self.ranked) or 'no rankings'}."
            )
        return found.better

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row a cell, failed ones too: its settings, its numbers in nats with their errors, what it cost."""
        # Half a second of imports, which only those who ask for a table should wait for.
        import pandas as pd

        return pd.DataFrame([_row(result) for result in self.results])

    def write_tables(self, out: Path | None = None) -> None:
        """Write the table as Parquet and CSV into a folder, the comparison's own unless given."""
        out = self.path if out is None else out
        write_bytes(out / CSV, self.table.to_csv(index=False).encode())
        write_bytes(out / PARQUET, self.table.to_parquet(index=False))

    def __str__(self) -> str:
        lines = [f"{len(self.finished)} of {len(self.results)} cells finished in {self.path}"]
        for result in self.failed:
            first = (result.error or "").splitlines()[:1]
            lines.append(f"  {result.cell.label(self.varying)}: {''.join(first)}")
        for quantity in self.ranked:
            try:
                lines += ["", f"{quantity}, {self._unit(quantity)} per image", str(self.ranking(quantity))]
            except ValueError as error:
                lines.append(f"{quantity}: {error}")
        seeds = self.unpaired_seeds
        if seeds and self.ranked:
            which = ", ".join(map(str, seeds))
            lines.append(f"left out of rankings, as not every configuration has finished with it: seed {which}")
        return "\n".join(lines)

    def _unit(self, quantity: str) -> str:
        return str(next(result.summary_of(quantity)["unit"] for result in self.finished))

    def _configuration(self, name: str) -> Configuration:
        if name not in self.configurations:
            raise ValueError(f"there is no configuration {name!r}; there are {', '.join(self.configurations)}.")
        return self.configurations[name]


def _require_same_images(results: Sequence[CellResult]) -> None:
    """Refuse to pair what was measured on different images: their nats do not compare."""
    images = {result.evaluation["test_images"]: result for result in results}
    if len(images) > 1:
        (a, b), *_ = zip(images.values(), list(images.values())[1:], strict=False)
        raise ValueError(
            f"results of different test images cannot be paired: {_images_of(a)} and {_images_of(b)}. Compare cells "
            f"with the same data, binarization, data_seed and num_test."
        )


def _images_of(result: CellResult) -> str:
    data = result.evaluation["data"]
    return f"{len(result.per_datum[ELBO])} of {data['name']} ({data['binarization']}, seed {data['seed']})"


def _row(result: CellResult) -> dict[str, Any]:
    settings = result.cell.settings()
    row = {name: _plain(settings[name]) for name in SETTINGS}
    row = {
        "cell": result.cell.hash,
        "fitted_model": result.cell.fitted_model.hash if result.cell.fitted_model else None,
        **row,
    }
    row["status"] = "finished" if result.finished else "unfinished" if result.error == UNFINISHED else "failed"
    row["error"] = (result.error or "").partition("\n")[0] or None
    for name in ("epochs", "fit_seconds", "evaluation_seconds", "model_parameters", "guide_parameters"):
        row["epochs_run" if name == "epochs" else name] = result.evaluation.get(name, math.nan)
    row["compiled"], row["test_images"] = result.evaluation.get("compiled"), result.evaluation.get("test_images")
    columns = {(one.evaluation, one.key): name for name, one in result.quantities.items()}
    for evaluation, summary in result.measured.items():
        for key, value in summary.items():
            name = columns.get((evaluation, key), f"{evaluation}.{key}")
            if is_estimate(value):
                row |= {
                    name: _number(value["mean"]),
                    f"{name}_se": _number(value["standard_error"]),
                    f"{name}_data_se": _number(value["data_standard_error"]),
                }
            elif isinstance(value, int | float):
                row[name] = value
    row["path"] = str(result.path)
    return row


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    return "-".join(map(str, value)) if isinstance(value, list) else value
