"""The bootstrap over images: means of images drawn anew with replacement, and the BCa interval that they give."""

import math

import numpy as np

BLOCK = 2**20
"""Images drawn at a time: some tens of megabytes."""

ROUNDING = 1e-9
"""Relative; values whose range is smaller are equal. Of standard deviations for resampled means and the mean."""


def resampled_means(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means ``(resamples, C)`` of columns ``(N, C)`` over N rows drawn with replacement, for all C the same."""
    rng, N = np.random.default_rng(seed), len(columns)
    centres = columns.mean(0)
    blocks = []
    for start in range(0, resamples, max(1, BLOCK // N)):
        size = min(max(1, BLOCK // N), resamples - start)
        drawn = rng.integers(N, size=(size, N)) + N * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * N).reshape(size, N)
        blocks.append(counts.astype(np.float64) @ (columns - centres) / N)
    return np.concatenate(blocks) + centres


def bca_interval(values: np.ndarray, resampled: np.ndarray, level: float) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval of a mean of values ``(N,)``; of equal values, both ends."""
    from scipy.special import ndtr, ndtri

    mean, sd = float(values.mean()), float(values.std())
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return mean, mean
    # The jackknife's acceleration: for a mean, a sixth of the skewness of the mean.
    acceleration = float(np.mean(((values - mean) / sd) ** 3)) / (6 * math.sqrt(len(values)))
    beside = (resampled - mean) / sd
    bias = ndtri(((beside < -ROUNDING).mean() + (beside <= ROUNDING).mean()) / 2)
    shifted = bias + ndtri(np.array([1 - level, 1 + level]) / 2)
    tails = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(resampled, tails).tolist()
    return low, high
