"""Configurations, each of cells that differ by their seed alone, and their means over seeds and test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pyro_vae.comparison.results import ELBO, CellResult
from pyro_vae.evaluation.estimate import decimals

BOUND_GAP = "bound_gap"
"""Name of the quantity log p^(x) - ELBO of each image."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """Cells that differ by their seed alone."""

    name: str
    results: Sequence[CellResult] = field(repr=False)
    """Its finished cells, ordered by seed."""

    @property
    def seeds(self) -> set[int]:
        """The seeds of its finished cells."""
        return {result.cell.seed for result in self.results}

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
                measured = [name for name in result.quantities if result.values_of(name) is not None]
                raise ValueError(
                    f"{self.name}: {quantity} was not measured; there are {', '.join(measured)}"
                    f"{'' if result.cell.num_gaps else ' (gaps: set num_gaps)'}."
                )
            rows.append(values.double().numpy())
        _require_same_images(self.results)
        return np.stack(rows)


def paired_values(configurations: Sequence[Configuration], quantity: str) -> list[np.ndarray]:
    """Return a quantity of configurations that were measured on the same test images, each ``(seeds, images)``.

    The rows of all arrays have the same seeds: those that all configurations have.

    Raises:
        ValueError: the quantity was not measured, or they have no test images or no seed in common.
    """
    _require_same_images([result for configuration in configurations for result in configuration.results])
    shared = set.intersection(*(configuration.seeds for configuration in configurations))
    if not shared:
        names = ", ".join(configuration.name for configuration in configurations)
        raise ValueError(f"the configurations {names} have no seed in common: nothing is paired.")
    values = []
    for configuration in configurations:
        results = [result for result in configuration.results if result.cell.seed in shared]
        values.append(replace(configuration, results=results).values(quantity))
    return values


def _require_same_images(results: Sequence[CellResult]) -> None:
    """Refuse to pair values of different test images."""
    images = {}
    for result in results:
        data, number = result.evaluation["data"], len(result.per_datum[ELBO])
        in_words = f"{number} of {data['name']} ({data['binarization']}, seed {data['seed']})"
        images[result.evaluation["test_images"]] = in_words
    if len(images) > 1:
        raise ValueError(
            f"results of different test images cannot be paired: {' and '.join(list(images.values())[:2])}. Compare "
            f"cells with the same data, binarization, data_seed and num_test."
        )


@dataclass(frozen=True)
class MeanOverSeeds:
    """A mean over seeds and test images, in the quantity's unit."""

    mean: float
    monte_carlo: float
    """Monte Carlo standard error of the mean; NaN if it was not recorded."""
    data: float
    """Standard error of the mean over test images, for the seeds at hand; NaN if seeds have different images."""
    spread: float
    """Standard deviation of the seeds' means; NaN with one seed."""
    num_seeds: int
    num_images: int
    num_left_out: int
    """Number of images that are not finite for some seed and are in none of the numbers."""

    @property
    def standard_error(self) -> float:
        """Standard error over images and seeds; a little too large, as the means of seeds differ by images as well."""
        over_seeds = 0.0 if math.isnan(self.spread) else self.spread / math.sqrt(self.num_seeds)
        return math.hypot(0.0 if math.isnan(self.data) else self.data, over_seeds)

    @property
    def decimals(self) -> int:
        """How many decimals of the mean its largest error asks for."""
        return decimals(max((error for error in (self.monte_carlo, self.data, self.spread) if error > 0), default=0.0))

    def times(self, factor: float) -> "MeanOverSeeds":
        """Return the same in another unit."""
        size = abs(factor)
        return replace(
            self, mean=factor * self.mean, monte_carlo=size * self.monte_carlo, data=size * self.data,
            spread=size * self.spread,
        )  # fmt: skip


def estimate(configuration: Configuration, quantity: str) -> MeanOverSeeds | None:
    """Return the mean of a quantity and its errors; None if it was not measured, or no image is finite.

    The Monte Carlo errors of cells are independent, as each draws from its own seed.

    Args:
        configuration: the cells to average over.
        quantity: one of :attr:`CellResult.quantities`, or ``"bound_gap"``.
    """
    if not is_measured(configuration, quantity):
        return None
    results = configuration.results
    rows = [_values(result, quantity) for result in results]
    same_images = len({result.evaluation.get("test_images") for result in results}) == len(set(map(len, rows))) == 1
    if same_images:
        finite = np.isfinite(np.stack(rows)).all(0)
        rows, left_out = [row[finite] for row in rows], int((~finite).sum())
    else:
        left_out = sum(int((~np.isfinite(row)).sum()) for row in rows)
        rows = [row[np.isfinite(row)] for row in rows]
    num_images = min(map(len, rows))
    if num_images == 0:
        return None
    means = np.array([row.mean() for row in rows])
    data = math.nan
    if same_images and num_images > 1:
        data = float(np.stack(rows).mean(0).std(ddof=1) / math.sqrt(num_images))
    return MeanOverSeeds(
        mean=float(means.mean()),
        monte_carlo=math.hypot(*(_monte_carlo(result, quantity) for result in results)) / len(means),
        data=data,
        spread=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        num_seeds=len(means),
        num_images=num_images,
        num_left_out=left_out,
    )


def is_measured(configuration: Configuration, quantity: str) -> bool:
    """Whether there are finished cells, and all of them have measured a quantity of each image."""
    names = ("log_likelihood", "elbo") if quantity == BOUND_GAP else (quantity,)
    results = configuration.results
    return len(results) > 0 and all(result.values_of(name) is not None for result in results for name in names)


def numbers(configuration: Configuration, name: str) -> list[float]:
    """Return a number of each cell that has it: a fact of an evaluation, or else a field of ``evaluation.json``."""
    values = [result.summary_of(name) for result in configuration.results]
    if all(value is None for value in values):
        values = [result.evaluation.get(name) for result in configuration.results]
    return [float(value) for value in values if isinstance(value, int | float)]


def _values(result: CellResult, quantity: str) -> np.ndarray:
    """Return a measured quantity of each image, float64 ``(N,)``."""
    if quantity == BOUND_GAP:
        return _values(result, "log_likelihood") - _values(result, "elbo")
    values = result.values_of(quantity)
    assert values is not None
    return values.double().numpy()


def _monte_carlo(result: CellResult, quantity: str) -> float:
    """Return the Monte Carlo standard error of a cell's mean; NaN if it is unknown."""
    if quantity == BOUND_GAP:
        return math.hypot(_monte_carlo(result, "log_likelihood"), _monte_carlo(result, "elbo"))
    error = result.summary_of(quantity)["standard_error"]
    return math.nan if error is None else float(error)
