"""A comparison: the results of a grid's cells as one table, and their differences on the same test images."""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.estimates import Configuration, estimate, is_measured, paired_values
from pyro_vae.comparison.grid import FOLDERS, SETTINGS, Grid
from pyro_vae.comparison.quantities import Quantity, is_estimate
from pyro_vae.comparison.results import UNFINISHED, CellResult, read_result
from pyro_vae.comparison.task import CELLS
from pyro_vae.errors import RunError
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.reading import Fields, read_yaml, require_inside
from pyro_vae.runtime.trust import names_from
from pyro_vae.runtime.wording import count, rounded_error
from pyro_vae.statistics.paired_difference import PairedDifference, paired_difference
from pyro_vae.statistics.ranking import ComparedPair, Ranking, compare_all

if TYPE_CHECKING:
    import pandas as pd

GRID, CSV, PARQUET = "grid.yaml", "results.csv", "results.parquet"

HASH = re.compile(r"[0-9a-f]{16}")
"""The hash of a cell, which names its folder."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results of a grid, as :func:`pyro_vae.compare` returns them; ``print`` it for the table and the rankings."""

    path: Path
    results: Sequence[CellResult] = field(repr=False)
    """A result for each cell, in the grid's order; those that failed have an ``error``."""
    varying: tuple[str, ...]
    """Settings by which the cells differ."""

    @classmethod
    def read(cls, path: str | Path, *, trust: bool = False) -> "Comparison":
        """Return the comparison in a folder, which may be unfinished.

        Args:
            path: the folder.
            trust: import the classes that it names, also those of other packages and files.

        Raises:
            RunError: the folder has no comparison, or one that is damaged, of another version, or names a class that is
                not trusted.
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
        return cls.of(grid, path, folders)

    @classmethod
    def of(cls, grid: Grid, path: Path, folders: Sequence[str] = ()) -> "Comparison":
        """Return the comparison of a grid whose cells were computed in a folder.

        Args:
            grid: the cells.
            path: the folder.
            folders: the hash of each cell when it was run, which names its folder. By default the hash now, which
                differs if a file of the user's own has changed since.

        Raises:
            RunError: a cell's folder is damaged or of another version.
        """
        hashes = folders or [cell.hash for cell in grid.cells]
        runs = zip(grid.cells, hashes, strict=True)
        return cls(path, [read_result(path / CELLS / hash, cell, hash) for cell, hash in runs], grid.varying)

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
        """The configurations, each of cells that differ by their seed alone, by name."""
        settings = [name for name in self.varying if name != "seed"]
        groups: dict[Cell, list[CellResult]] = {}
        for result in self.results:
            groups.setdefault(result.cell.with_seed(0), []).append(result)
        labels = [cell.label(settings) for cell in groups]
        configurations = {}
        for (cell, results), label in zip(groups.items(), labels, strict=True):
            if labels.count(label) > 1 and cell.fitted_model is not None:
                label = f"{label}, model {cell.fitted_model.hash}"
            finished = [result for result in results if result.finished]
            configurations[label] = Configuration(label, sorted(finished, key=lambda result: result.cell.seed))
        return configurations

    @property
    def _with_results(self) -> list[Configuration]:
        return [configuration for configuration in self.configurations.values() if configuration.results]

    @property
    def failed_evaluations(self) -> list[str]:
        """A sentence on each evaluation that measured nothing in a finished cell: in how many, and why."""
        sentences = []
        for name in dict.fromkeys(name for result in self.finished for name in result.failed_evaluations):
            tried = [r for r in self.finished if name in r.failed_evaluations or name in r.measured]
            reasons = [r.failed_evaluations[name] for r in tried if name in r.failed_evaluations]
            text = f"{name} measured nothing in {len(reasons)} of {count(len(tried), 'cell')}: {reasons[0]}"
            sentence = f"{text.removesuffix('.')}."
            others = sum(reason != reasons[0] for reason in reasons)
            sentences.append(f"{sentence} In {others} of them the reason differs." if others else sentence)
        return sentences

    def difference(self, a: str, b: str, quantity: str = "elbo") -> PairedDifference:
        """Return the mean of a - b over test images and seeds, with its errors, for configurations ``a`` and ``b``.

        Values are paired by test image and by seed. The variance over seeds is the one that :meth:`ranking` estimates
        from all configurations. If there is no ranking, as when a third configuration has other images, it is estimated
        from ``a`` and ``b`` alone.

        Args:
            a: name of a configuration.
            b: name of another one.
            quantity: one of :attr:`quantities`.

        Raises:
            ValueError: there is no such configuration, or they have no test images or no seed in common.
        """
        for name in (a, b):
            if name not in self.configurations:
                raise ValueError(f"there is no configuration {name!r}; there are {', '.join(self.configurations)}.")
        values = paired_values([self.configurations[name] for name in (a, b)], quantity)
        pairs: Sequence[ComparedPair] = ()
        with contextlib.suppress(ValueError):
            pairs = self.ranking(quantity).comparisons
        for pair in pairs:
            if {pair.first, pair.second} == {a, b}:
                difference = pair.difference if pair.first == a else pair.difference.reversed()
                break
        else:
            difference = paired_difference(*values)
        return replace(difference, unit=self._unit(quantity))

    def ranking(self, quantity: str = "elbo") -> Ranking:
        """Return the configurations by their mean of a quantity; those that cannot be told apart share a rank.

        Each pair is compared as by :meth:`difference`, and corrected for the number of pairs. Only configurations with
        a finished cell are ranked, by the seeds that all of them have. A ranking is computed once and kept.

        Args:
            quantity: one of :attr:`ranked`.

        Raises:
            ValueError: fewer than two configurations have finished cells, they have no test images or no seed in
                common, or neither high nor low values of the quantity are better.
        """
        if quantity not in self._rankings:
            configurations = self._with_results
            if len(configurations) < 2:
                raise ValueError(
                    f"a ranking needs two configurations with finished cells; there are {len(configurations)}."
                )
            values = paired_values(configurations, quantity)
            better = self.quantities[quantity].better if quantity in self.quantities else ""
            if not better:
                ranked = ", ".join(self.ranked) or "no rankings"
                raise ValueError(f"configurations are not ranked by {quantity}; there are {ranked}.")
            by_name = {configuration.name: rows for configuration, rows in zip(configurations, values, strict=True)}
            ranking = compare_all(by_name, higher_is_better=better == "higher")
            self._rankings[quantity] = replace(ranking, unit=self._unit(quantity))
        return self._rankings[quantity]

    @cached_property
    def _rankings(self) -> dict[str, Ranking]:
        return {}

    @property
    def unpaired_seeds(self) -> list[int]:
        """Seeds of finished cells that rankings leave out, as other configurations have not finished with them."""
        seeds = [configuration.seeds for configuration in self._with_results]
        return sorted(seeds[0].union(*seeds) - seeds[0].intersection(*seeds)) if seeds else []

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """What any finished cell has measured, by name."""
        return {name: quantity for result in self.finished for name, quantity in result.quantities.items()}

    @property
    def ranked(self) -> list[str]:
        """The quantities that configurations are ranked by: each finished cell has measured them."""
        return [
            name
            for name, quantity in self.quantities.items()
            if quantity.better and all(result.values_of(name) is not None for result in self.finished)
        ]

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row for each cell, also for failed ones: its settings, its numbers with their errors, and its costs.

        Numbers are in the units of :attr:`quantities`, most of them nats per image.
        """
        # Imported here, as it takes half a second, and only tables need it.
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
            lines.append(f"  {result.cell.label(self.varying)}: {result.error_line}")
        lines += [f"  {sentence}" for sentence in self.failed_evaluations]
        if len(self._with_results) == 1:
            return "\n".join([*lines, "", self._means(*self._with_results)])
        for quantity in self.ranked:
            try:
                lines += ["", f"{quantity}, {self._unit(quantity)} per image", str(self.ranking(quantity))]
            except ValueError as error:
                lines.append(f"{quantity}: {error}")
        if self.unpaired_seeds and self.ranked:
            which = ", ".join(map(str, self.unpaired_seeds))
            lines.append(f"left out of rankings, as not every configuration has finished with it: seed {which}")
        return "\n".join(lines)

    def _means(self, configuration: Configuration) -> str:
        """Return the means of one configuration in words, a line a quantity."""
        import pandas as pd

        rows = {}
        for name in self.quantities:
            mean = estimate(configuration, name)
            if mean is not None:
                errors = [rounded_error(error) for error in (mean.monte_carlo, mean.data, mean.spread)]
                rows[name] = [f"{mean.mean:.{mean.decimals}f}", self._unit(name), *errors, str(mean.num_images)]
            elif is_measured(configuration, name):
                rows[name] = ["not finite", self._unit(name), "", "", "", "0"]
        columns = ["mean", "unit", "Monte Carlo s.e.", "data s.e.", "s.d. over seeds", "images"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).to_string()

    def _unit(self, quantity: str) -> str:
        return self.quantities[quantity].unit if quantity in self.quantities else ""


def _row(result: CellResult) -> dict[str, Any]:
    cell, evaluation = result.cell, result.evaluation
    settings = {name: getattr(cell, name) for name in SETTINGS}
    costs = ("fit_seconds", "evaluation_seconds", "model_parameters", "guide_parameters")
    row = {
        "cell": cell.hash,
        "fitted_model": cell.fitted_model and cell.fitted_model.hash,
        **{name: "-".join(map(str, value)) if isinstance(value, tuple) else value for name, value in settings.items()},
        "status": "finished" if result.finished else "unfinished" if result.error == UNFINISHED else "failed",
        "error": result.error_line or None,
        "epochs_run": evaluation.get("epochs", math.nan),
        **{name: evaluation.get(name, math.nan) for name in costs},
        "compiled": evaluation.get("compiled"),
        "test_images": evaluation.get("test_images"),
    }
    columns = {quantity.place: name for name, quantity in result.quantities.items()}
    for measured_by, summary in result.measured.items():
        for key, value in summary.items():
            place = f"{measured_by}.{key}"
            name = columns.get(place, place)
            if is_estimate(value):
                for part, suffix in (("mean", ""), ("standard_error", "_se"), ("data_standard_error", "_data_se")):
                    row[f"{name}{suffix}"] = math.nan if value[part] is None else float(value[part])
            elif isinstance(value, int | float):
                row[name] = value
    row["path"] = str(result.path)
    return row
