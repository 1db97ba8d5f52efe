"""The variance over seeds of each configuration's mean, moderated by those of all configurations (Smyth, 2004)."""

import math
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-5
"""Share of the mean variance to which each smaller variance is raised, so that it has a logarithm."""

STEPS = 50
"""Largest number of Newton steps for the inverse of the trigamma function; ten give a relative error of 1e-8."""


@dataclass(frozen=True)
class SeedSpread:
    """Variances over seeds, as :func:`seed_spread` estimates them."""

    variances: np.ndarray
    """Variance of one seed's mean for each configuration, ``(C,)``, without the effects of seeds on all
    configurations alike."""
    df: float
    """Degrees of freedom of each variance."""
    prior_df: float
    """d0: infinite if the configurations' variances differ by no more than chance, so that they are pooled."""


def seed_spread(means: np.ndarray) -> SeedSpread:
    r"""Estimate the variance over seeds of each configuration's mean, with the help of all configurations.

    With r the interactions of configurations and seeds, :math:`u_c = \sum_s r_{cs}^2 / (S - 1) \cdot C / (C - 1)` has
    d = S - 1 degrees of freedom. The true variances are taken to be drawn from a scaled inverse chi-squared law with
    parameters :math:`s_0^2, d_0`, which are estimated from the mean and the variance of :math:`\log u`. The variance of
    each configuration is then :math:`(d_0 s_0^2 + d u_c) / (d_0 + d)` with d0 + d degrees of freedom, (C - 1) d at
    most. If log u varies no more than equal variances explain, d0 is infinite, and all have the mean of u with
    (C - 1) d degrees of freedom.

    Args:
        means: of each configuration and seed, over the same images, ``(C, S)`` with C and S at least 2.

    References:
        G. K. Smyth (2004), *Linear models and empirical Bayes methods for assessing differential expression in
        microarray experiments*, Statistical Applications in Genetics and Molecular Biology 3, article 3, section 6.

    >>> seed_spread(np.array([[1.0, 3.0], [2.0, 2.0]]))
    SeedSpread(variances=array([1., 1.]), df=1.0, prior_df=inf)
    """
    from scipy.special import digamma, polygamma

    C, d = len(means), means.shape[1] - 1
    # Differences from the first configuration are exactly 0 for one that equals it.
    beside = means - means[0]
    interactions = beside - beside.mean(1, keepdims=True) - beside.mean(0) + beside.mean()
    unmoderated = np.square(interactions).sum(1) / d * C / (C - 1)
    pooled, pooled_df = float(unmoderated.mean()), float((C - 1) * d)
    if pooled == 0:
        return SeedSpread(unmoderated, pooled_df, math.inf)
    logs = np.log(np.maximum(unmoderated, FLOOR * pooled)) - digamma(d / 2) + math.log(d / 2)
    beyond_chance = float(logs.var(ddof=1) - polygamma(1, d / 2))
    if beyond_chance <= 0:
        return SeedSpread(np.full(C, pooled), pooled_df, math.inf)
    prior_df = 2 * _inverse_trigamma(beyond_chance)
    prior = math.exp(logs.mean() + digamma(prior_df / 2) - math.log(prior_df / 2))
    variances = (prior_df * prior + d * unmoderated) / (prior_df + d)
    return SeedSpread(variances, min(prior_df + d, pooled_df), prior_df)


def _inverse_trigamma(value: float) -> float:
    """Return the y at which the trigamma function has a value, by Newton's method on its reciprocal (Smyth, 2004)."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(STEPS):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-12 * y:
            break
    return y
