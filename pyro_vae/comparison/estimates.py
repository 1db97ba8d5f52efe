"""What the cells of a configuration say of a quantity together: a mean, and each error of it that is known."""

import math
from dataclasses import dataclass, replace

import numpy as np

from pyro_vae.comparison.comparison import Configuration
from pyro_vae.comparison.results import CellResult

KHAT_ABOVE, BOUND_GAP = "khat_above", "bound_gap"
"""Of each image: whether its k-hat is above the threshold (1 or 0), and log p^(x) - ELBO."""

MOST_DECIMALS = 4
"""Of a mean whose error is tiny."""


@dataclass(frozen=True)
class Estimate:
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

    def times(self, factor: float) -> "Estimate":
        """Return the same in another unit."""
        size = abs(factor)
        return replace(
            self, mean=factor * self.mean, monte_carlo=size * self.monte_carlo, data=size * self.data,
            spread=size * self.spread,
        )  # fmt: skip


def estimate(configuration: Configuration, quantity: str) -> Estimate | None:
    """Return the mean of a quantity and its errors; None where a cell has not measured it, or no cell has finished.

    Args:
        configuration: whose cells are taken together.
        quantity: one of :attr:`CellResult.per_datum`, or ``"khat_above"``, or ``"bound_gap"``.

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
    return Estimate(
        mean=float(means.mean()),
        monte_carlo=math.hypot(*(_monte_carlo(result, quantity) for result in configuration.results)) / len(means),
        data=float(data),
        spread=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        num_seeds=len(means),
        num_images=count,
        num_left_out=left_out,
    )


def numbers(configuration: Configuration, name: str) -> list[float]:
    """Return a number of ``evaluation.json`` of each cell, of those that have it."""
    return [float(result.evaluation[name]) for result in configuration.results if name in result.evaluation]


def decimals(error: float) -> int:
    """Return how many decimals show two digits of an error: two at least, four at most.

    >>> decimals(0.23), decimals(0.0123), decimals(0.0)
    (2, 3, 2)
    """
    return min(MOST_DECIMALS, max(2, 1 - math.floor(math.log10(error)))) if error > 0 else 2


def _values(result: CellResult, quantity: str) -> np.ndarray | None:
    """Return a quantity of each image, float64 ``(N,)``; None where it was not measured."""
    per_datum = {name: tensor.double().numpy() for name, tensor in result.per_datum.items()}
    if quantity == BOUND_GAP and {"log_likelihood", "elbo"} <= per_datum.keys():
        return np.asarray(per_datum["log_likelihood"] - per_datum["elbo"])
    if quantity == KHAT_ABOVE and "pareto_k" in per_datum:
        khat, threshold = per_datum["pareto_k"], result.evaluation["log_likelihood"]["khat_threshold"]
        return np.where(np.isnan(khat), math.nan, khat > threshold)
    return per_datum.get(quantity)


def _monte_carlo(result: CellResult, quantity: str) -> float:
    """Return the Monte Carlo standard error of a cell's mean; NaN where it was not recorded."""
    found = result.evaluation
    elbo, evidence = (found.get(name, {}).get("standard_error", math.nan) for name in ("elbo", "log_likelihood"))
    if quantity in ("elbo", "log_likelihood"):
        return float(elbo if quantity == "elbo" else evidence)
    if quantity == BOUND_GAP:
        return math.hypot(elbo, evidence)
    return float(found.get("gaps", {}).get(f"{quantity}_standard_error", math.nan))
