"""Bootstrap-t intervals of means over images."""

import math

import numpy as np

BLOCK = 2**20
"""Number of images that are drawn at a time; they take some tens of megabytes."""

ROUNDING = 1e-9
"""Relative size below which a range of values, or a resample's standard deviation, counts as 0."""


def image_intervals(columns: np.ndarray, level: float, resamples: int, seed: int) -> list[tuple[float, float]]:
    """Return the interval of the mean of each column of ``(N, C)``, from the same resampled images.

    Args:
        columns: C quantities of each of N images.
        level: of the intervals.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    squares = np.square(columns - columns.mean(0))
    resampled = _resampled_means(np.concatenate([columns, squares], 1), resamples, seed)
    means, mean_squares = np.split(resampled, 2, axis=1)
    return [_studentized(*column, level) for column in zip(columns.T, means.T, mean_squares.T, strict=True)]


def _resampled_means(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means ``(resamples, C)`` of columns ``(N, C)`` over N rows drawn with replacement, the same for all C."""
    rng, N = np.random.default_rng(seed), len(columns)
    centres = columns.mean(0)
    blocks = []
    for start in range(0, resamples, max(1, BLOCK // N)):
        size = min(max(1, BLOCK // N), resamples - start)
        drawn = rng.integers(N, size=(size, N)) + N * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * N).reshape(size, N)
        blocks.append(counts.astype(np.float64) @ (columns - centres) / N)
    return np.concatenate(blocks) + centres


def _studentized(
    values: np.ndarray, resampled: np.ndarray, resampled_squares: np.ndarray, level: float
) -> tuple[float, float]:
    r"""Return the symmetric bootstrap-t interval of a mean; if all values are equal, both ends are the mean.

    .. math:: \bar x \pm q \, s / \sqrt N, \quad q \text{ the quantile of } |\bar x^* - \bar x| / (s^* / \sqrt N)

    over resamples. q is raised to Student's t quantile if Monte Carlo error or very few images make it smaller. For
    skewed values the coverage is nearer to the nominal level than that of percentile intervals.

    Args:
        values: ``(N,)``.
        resampled: means of resamples, ``(resamples,)``.
        resampled_squares: means of the squares of ``values - mean`` over the same resamples.
        level: of the interval.

    References:
        P. Hall (1988), *On symmetric bootstrap confidence intervals*, J. of the Royal Statistical Society B 50, 35-45.
    """
    from scipy.special import stdtrit

    N, mean, sd = len(values), float(values.mean()), float(values.std(ddof=1))
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return mean, mean
    errors = np.abs(resampled - mean)
    variances = (resampled_squares - errors**2) / (N - 1)
    # A resample that holds one image N times has no spread.
    spread = variances > (ROUNDING * sd) ** 2
    quantile = -float(stdtrit(N - 1, (1 - level) / 2))
    if spread.any():
        quantile = max(quantile, float(np.quantile(errors[spread] / np.sqrt(variances[spread]), level)))
    half = quantile * sd / math.sqrt(N)
    return mean - half, mean + half
