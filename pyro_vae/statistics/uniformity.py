"""Test whether ranks are uniform: an exact test on their cumulative counts, and the band of the same test."""

import math

import numpy as np

ROUNDING = 1e-9
"""Relative difference below which two tail probabilities count as equal."""

TINY = 1e-12
"""Smaller tails are lost by rounding in 1 - (1 - p): the p-value is then bounded by a sum over points and sides."""


def uniformity_p_value(ranks: np.ndarray, num_ranks: int) -> float:
    r"""Exact p-value of the hypothesis that independent ranks are uniform on 0, ..., ``num_ranks - 1``.

    With c_i of n ranks below i, which is Binomial(n, i / num_ranks), the statistic is the smallest tail

    .. math:: t = \min_i \min\{P(C_i \le c_i), P(C_i \ge c_i)\},

    and the p-value is the probability of one as small or smaller; for tails below 1e-12 it is a bound on that. As ranks
    are discrete, so is the p-value, and the test is conservative.

    Args:
        ranks: ``(n,)``, integers.
        num_ranks: how many values a rank may have, at least 2.

    References:
        T. Saeilynoja, P.-C. Buerkner, A. Vehtari (2022), *Graphical test for discrete uniformity and its applications
        in goodness-of-fit evaluation and multiple sample comparison*, Statistics and Computing 32, arXiv 2103.10522.

    >>> uniformity_p_value(np.arange(100) % 10, 10)
    1.0
    """
    from scipy.stats import binom

    n = len(ranks)
    below = np.searchsorted(np.sort(ranks), np.arange(1, num_ranks), side="left")
    cdf = np.arange(1, num_ranks) / num_ranks
    tail = float(np.minimum(binom.cdf(below, n, cdf), binom.sf(below - 1, n, cdf)).min())
    if tail < TINY:
        return 2 * (num_ranks - 1) * tail
    return 1 - _probability_inside(n, num_ranks, tail * (1 + ROUNDING))


def uniformity_band(n: int, num_ranks: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the band that holds all cumulative counts of n uniform ranks at once with probability ``level``.

    Each point's limits have the same tail probability, as in the test: counts leave the band of level 0.95 when the
    p-value is at most 0.05.

    Args:
        n: how many ranks.
        num_ranks: how many values a rank may have.
        level: the least probability of staying inside.

    Returns:
        The smallest and the largest count of ranks below 1, ..., ``num_ranks - 1``, integers ``(num_ranks - 1,)``.
    """
    # The largest tail with which the probability inside is still ``level``.
    low, high = math.log(1e-12), math.log(0.5)
    for _ in range(40):
        middle = (low + high) / 2
        if _probability_inside(n, num_ranks, math.exp(middle)) >= level:
            low = middle
        else:
            high = middle
    return _limits(n, num_ranks, math.exp(low))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values, so that with any level the probability of a false rejection is at most that level.

    References:
        S. Holm (1979), *A simple sequentially rejective multiple test procedure*, Scandinavian J. of Statistics 6.

    >>> holm(np.array([0.01, 0.5, 0.02])).tolist()
    [0.03, 0.5, 0.04]
    """
    order = np.argsort(p_values)
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _limits(n: int, num_ranks: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest counts at which both tails have probability ``tail`` at least."""
    from scipy.stats import binom

    cdf = np.arange(1, num_ranks) / num_ranks
    lower, missing = (np.asarray(binom.ppf(tail, n, share)).astype(int) for share in (cdf, 1 - cdf))
    return lower, n - missing


def _probability_inside(n: int, num_ranks: int, tail: float) -> float:
    """Return the probability that all cumulative counts lie within their limits.

    The counts of single ranks are distributed as independent Poisson variables, given that their sum is n. They are
    added one after another.
    """
    from scipy.stats import poisson

    lower, upper = _limits(n, num_ranks, tail)
    if (lower > upper).any():
        return 0.0
    cell_counts = poisson.pmf(np.arange(n + 1), n / num_ranks)
    inside, start = np.ones(1), 0
    for low, high in zip([*lower, n], [*upper, n], strict=True):
        # Probabilities of the sums from `start` on; sums outside of the limits are left out.
        sums = np.convolve(inside, cell_counts[: high - start + 1])
        inside, start = sums[low - start : high - start + 1], low
    return float(min(inside[0] / poisson.pmf(n, n), 1.0))
