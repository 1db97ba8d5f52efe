"""What the cells of a configuration say of a quantity together: a mean, and each error of it that is known."""

import math
from dataclasses import dataclass, replace

import numpy as np

from pyro_vae.comparison.comparison import Configuration
from pyro_vae.comparison.results import CellResult
from pyro_vae.evaluation.estimate import decimals

BOUND_GAP = "bound_gap"
"""Of each image: log p^(x) - ELBO."""


@dataclass(frozen=True)
class MeanOverSeeds:
    """A mean over seeds and test images, in nats where the quantity is."""

    mean: float
    monte_carlo: float
    """Standard error of the mean that other draws of the samples would change; NaN where it was not recorded."""
    data: float
    """Standard error of the mean over test images, the seeds as they are; NaN where seeds saw other images."""
    spread: float
    """Standard deviation of the seeds' means; NaN with one seed."""
    num_seeds: int
    num_images: int
    num_left_out: int
    """Images that are not finite for a seed, and not in any of the numbers."""

    @property
    def standard_error(self) -> float:
        """Over images and over seeds together; a little too large, as the seeds' means differ by images, too."""
        over_seeds = 0.0 if math.isnan(self.spread) else self.spread / math.sqrt(self.num_seeds)
        return math.hypot(0.0 if math.isnan(self.data) else self.data, over_seeds)

    @property
    def decimals(self) -> int:
        """How many of the mean its largest error asks for."""
        return decimals(max((error for error in (self.monte_carlo, self.data, self.spread) if error > 0), default=0.0))

    def times(self, factor: float) -> "MeanOverSeeds":
        """Return the same in another unit."""
        size = abs(factor)
        return replace(
            self, mean=factor * self.mean, monte_carlo=size * self.monte_carlo, data=size * self.data,
            spread=size * self.spread,
        )  # fmt: skip


def estimate(configuration: Configuration, quantity: str) -> MeanOverSeeds | None:
    """Return the mean of a quantity and its errors; None where a cell has not measured it, or no cell has finished.

    Args:
        configuration: whose cells are taken together.
        quantity: one of :attr:`CellResult.quantities`, or ``"bound_gap"``.

    The Monte Carlo errors of cells are independent, as each draws from its own seed.
    """
    found = [_values(result, quantity) for result in configuration.results]
    rows = [row for row in found if row is not None]
    if not rows or len(rows) < len(found):
        return None
    images = {(r.evaluation.get("test_images"), len(row)) for r, row in zip(configuration.results, rows, strict=True)}
    same = len(images) == 1
    if same:
        there = np.isfinite(np.stack(rows)).all(0)
        rows, left_out = [row[there] for row in rows], int((~there).sum())
    else:
        left_out = sum(int((~np.isfinite(row)).sum()) for row in rows)
        rows = [row[np.isfinite(row)] for row in rows]
    if any(len(row) == 0 for row in rows):
        return None
    means, count = np.array([row.mean() for row in rows]), min(map(len, rows))
    data = np.stack(rows).mean(0).std(ddof=1) / math.sqrt(count) if same and count > 1 else math.nan
    return MeanOverSeeds(
        mean=float(means.mean()),
        monte_carlo=math.hypot(*(_monte_carlo(result, quantity) for result in configuration.results)) / len(means),
        data=float(data),
        spread=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        num_seeds=len(means),
        num_images=count,
        num_left_out=left_out,
    )


def numbers(configuration: Configuration, name: str) -> list[float]:
    """Return a number of each cell that has it: of ``evaluation.json``, or a fact that an evaluation found."""
    found = [result.summary_of(name) for result in configuration.results]
    if all(number is None for number in found):
        found = [result.evaluation.get(name) for result in configuration.results]
    return [float(number) for number in found if isinstance(number, int | float)]


def _values(result: CellResult, quantity: str) -> np.ndarray | None:
    """Return a quantity of each image, float64 ``(N,)``; None where it was not measured."""
    if quantity == BOUND_GAP:
        evidence, elbo = (_values(result, name) for name in ("log_likelihood", "elbo"))
        return None if evidence is None or elbo is None else evidence - elbo
    values = result.values_of(quantity)
    return None if values is None else values.double().numpy()


def _monte_carlo(result: CellResult, quantity: str) -> float:
    """Return the Monte Carlo standard error of a cell's mean; NaN where it is not known."""
    if quantity == BOUND_GAP:
        return math.hypot(_monte_carlo(result, "log_likelihood"), _monte_carlo(result, "elbo"))
    error = result.summary_of(quantity)["standard_error"]
    return math.nan if error is None else float(error)
