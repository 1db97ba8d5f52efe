"""The mean difference of two configurations over the seeds and images that both have, with its error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.runtime.wording import count, rounded_error
from pyro_vae.statistics.crossed_effects import CrossedEffects
from pyro_vae.statistics.image_bootstrap import image_intervals

RESAMPLES = 2000
"""Number of bootstrap resamples: an end of a 95 % interval is then known to about a twelfth of the standard error."""

TAIL = 5
"""Resamples that must lie beyond each end of an interval."""

ONE_SEED = "one seed, which says nothing of others"


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b, in nats per image, as :func:`paired_difference` returns it."""

    mean_difference: float
    """Over images and seeds."""
    image_standard_error: float
    """Over new images, for the trained seeds at hand."""
    image_interval: tuple[float, float]
    """Bootstrap-t interval over new images, for the trained seeds at hand: it does not cover other seeds."""
    seed_sd: float
    """Standard deviation of the seeds' effects on the difference; 0 if its variance is estimated as 0 or less, so that
    seeds differ by no more than images explain; NaN with one seed."""
    image_sd: float
    """Standard deviation of the images' effects, 0 in the same case; with one seed that of the images' differences."""
    residual_sd: float
    """Standard deviation of the residuals, which seed and image effects do not explain; NaN with one seed."""
    standard_error: float
    """Over new seeds and new images; with one seed the same as ``image_standard_error``."""
    interval: tuple[float, float]
    """Over new seeds and new images; with one seed the same as ``image_interval``."""
    p_value: float
    """Of no difference, two-sided, over new seeds and new images; with one seed that of the paired t-test."""
    level: float
    """Of both intervals."""
    num_seeds: int
    """S."""
    num_images: int
    """N, without the images that are left out."""
    num_left_out: int
    """Images that are NaN or infinite for a or b with any seed."""
    seed_df: float
    """Degrees of freedom of the spread over seeds: S - 1 for the pair alone, more if the spread was estimated from
    further configurations; 0 with one seed."""
    unit: str = "nats"
    """Unit of the quantity in :meth:`__str__`."""

    @property
    def over_seeds(self) -> bool:
        """Whether the interval and p-value hold over new seeds: False with one seed."""
        return self.num_seeds > 1

    def reversed(self) -> "PairedDifference":
        """Return b - a."""
        return replace(
            self,
            mean_difference=0.0 - self.mean_difference,
            image_interval=negated(self.image_interval),
            interval=negated(self.interval),
        )

    def __str__(self) -> str:
        digits = decimals(self.standard_error)
        intervals = [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in (self.interval, self.image_interval)]
        interval, seeds = intervals[0], ONE_SEED
        if self.over_seeds:
            interval, seeds = ", of these runs ".join(intervals), f"{self.num_seeds} seeds"
        left_out = f", {self.num_left_out} left out" if self.num_left_out else ""
        return (
            f"{self.mean_difference:+.{digits}f} {self.unit} (s.e. {rounded_error(self.standard_error)}, "
            f"{100 * self.level:g} % interval {interval}, p = {self.p_value:.2g}; "
            f"{count(self.num_images, 'image')}{left_out}; {seeds})"
        )


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    r"""Compare two configurations that were trained from several seeds and measured on the same images.

    Seeds and images are both random effects, and crossed:

    .. math:: d_{si} = a_{si} - b_{si} = \mu + \mathrm{seed}_s + \mathrm{image}_i + e_{si}

    with mean squares :math:`M_\mathrm{seed}, M_\mathrm{image}, M_e`. The variance of the mean over S seeds and N images
    is estimated from the variance components, where a negative estimate counts as 0:

    .. math:: \mathrm{s.e.}^2 = \frac{(M_\mathrm{seed} - M_e)_+ + (M_\mathrm{image} - M_e)_+ + M_e}{S N}.

    Half the interval's width h is that of Banerjee, each part with a t quantile of its own degrees of freedom,

    .. math:: h^2 = \frac{t_{S-1}^2 M_\mathrm{seed} + t_{N-1}^2 (M_\mathrm{image} - M_e)_+}{S N},

    or the half width for the seeds at hand, if that is larger. The p-value is one minus the level at which the interval
    ends at 0. A t quantile with Satterthwaite's (1946) degrees of freedom for the sum would cover only 87 % at a
    nominal 95 % with two seeds that make up nine tenths of the variance, and 94 % at 99.5 %. This interval covers the
    nominal level at least, if effects are normal and images many, and at most 99.3 % at 95 % with two seeds.

    Seeds are paired by position. That is right whether or not equal seeds share anything: if they do not, the seeds'
    effects on the difference are those of both configurations. The effects of seeds are assumed to be normal. Those of
    images need not be if there are many: with lognormal effects, image intervals cover 95 % with 200 images, and 92 %
    with 50.

    The images that are left out are not a random sample: flagged images are often those that a guide fits worst.

    Args:
        a: nats per image, ``(S, N)``, or ``(N,)`` for one seed; NaN where an image was flagged.
        b: the same of another configuration, the same images in the same order.
        level: of both intervals, between 0 and 1.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.

    Raises:
        ValueError: the numbers of images or seeds differ, fewer than 2 images are finite everywhere, ``level`` is not
            between 0 and 1, or there are too few resamples for it.

    References:
        S. K. Banerjee (1960), *Approximate confidence interval for linear functions of means of k populations when the
        population variances are not equal*, Sankhya 22, 357-358.
        P. Hall (1988), *On symmetric bootstrap confidence intervals*, J. of the Royal Statistical Society B 50, 35-45.
        F. E. Satterthwaite (1946), *An approximate distribution of estimates of variance components*, Biometrics
        Bulletin 2, 110-114.
        S. R. Searle, G. Casella, C. E. McCulloch (1992), *Variance components*, Wiley, chapter 4 (crossed, ANOVA).

    >>> result = paired_difference([[1.0, 2.0], [3.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]])
    >>> result.mean_difference, round(result.seed_sd**2, 9), round(result.image_sd**2, 9), result.residual_sd
    (3.5, 6.0, 2.5, 2.0)
    >>> round(result.standard_error**2, 9), result.over_seeds
    (5.25, True)
    """
    values, num_left_out = common_images("paired_difference", {"a": a, "b": b}, level, resamples)
    difference = values[0] - values[1]
    (image_interval,) = image_intervals(difference.mean(0)[:, None], level, resamples, seed)
    return summarize(CrossedEffects.of(difference), image_interval, level, num_left_out)


def negated(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of the negative difference."""
    low, high = interval
    # The negative of 0 would be printed as -0.
    return 0.0 - high, 0.0 - low


def decimals(error: float) -> int:
    """Return how many decimals show two digits of an error: at least two, and at most six, as more are rounding."""
    return min(max(2, 1 - math.floor(math.log10(error))), 6) if error > 0 else 2


def summarize(
    crossed: CrossedEffects, image_interval: tuple[float, float], level: float, num_left_out: int
) -> PairedDifference:
    """Return the difference that an analysis of variance and a bootstrap over images find.

    Args:
        crossed: the analysis of variance.
        image_interval: of the bootstrap.
        level: of both intervals.
        num_left_out: number of images that are not in the analysis.
    """
    seed_sd, image_sd, residual_sd = crossed.components
    return PairedDifference(
        mean_difference=crossed.mean,
        image_standard_error=crossed.image_standard_error,
        image_interval=image_interval,
        seed_sd=seed_sd,
        image_sd=image_sd,
        residual_sd=residual_sd,
        standard_error=crossed.standard_error,
        interval=image_interval if crossed.num_seeds == 1 else crossed.interval(1 - level),
        p_value=crossed.p_value,
        level=level,
        num_seeds=crossed.num_seeds,
        num_images=crossed.num_images,
        num_left_out=num_left_out,
        seed_df=crossed.seed_df,
    )


def common_images(who: str, values: Mapping[str, ArrayLike], level: float, resamples: int) -> tuple[np.ndarray, int]:
    """Return the values of the images that are finite for all configurations and seeds, and how many others there are.

    Args:
        who: name of the caller, for messages.
        values: nats per image by configuration, each ``(S, N)`` or ``(N,)``.
        level: of the intervals to be made, which is checked.
        resamples: of the bootstrap to be made, which is checked against the level.

    Returns:
        Values ``(C, S, N)`` without the images that are left out, and the number of these images.

    Raises:
        ValueError: ``level`` or ``resamples`` is out of range, the numbers of images or seeds differ, or fewer than 2
            images are finite for all.
    """
    if not 0 < level < 1:
        raise ValueError(f"{who}: level must lie between 0 and 1; got {level}. Is it a percentage? 95 % is 0.95.")
    least = math.ceil(2 * TAIL / (1 - level) - 1e-9)
    if resamples < least:
        raise ValueError(
            f"{who}: resamples must be at least {least} for level {level:g}, so that {TAIL} lie beyond each end; got "
            f"{resamples}."
        )
    arrays = {}
    for name, value in values.items():
        array = np.asarray(value, dtype=np.float64)
        if array.ndim not in (1, 2) or array.size == 0:
            raise ValueError(
                f"{who}: {name!r} must be (num_seeds, num_images), or (num_images,) for one seed; got shape "
                f"{array.shape}."
            )
        arrays[name] = np.atleast_2d(array)
    first = next(iter(arrays))
    S, N = arrays[first].shape
    for name, array in arrays.items():
        num_seeds, num_images = array.shape
        if num_images != N:
            raise ValueError(
                f"{who}: {first!r} and {name!r} must be measured on the same images, in the same order; got {N} and "
                f"{num_images} images. Evaluate both on the same test set; a flagged image is NaN, not missing."
            )
        if num_seeds != S:
            raise ValueError(
                f"{who}: {first!r} and {name!r} must have as many seeds, as they are paired by position; got {S} and "
                f"{num_seeds}. Train the missing ones, or pass the first {min(S, num_seeds)} rows of both."
            )
    stacked = np.stack(list(arrays.values()))
    finite = np.isfinite(stacked)
    complete = finite.all((0, 1))
    if not complete.any():
        at, fewest = np.unravel_index(finite.sum(-1).argmin(), finite.shape[:2])
        raise ValueError(
            f"{who}: no image of {complete.size} is finite for all configurations and seeds. The fewest, "
            f"{finite[at, fewest].sum()}, are finite for {list(arrays)[at]!r}, row {fewest}: look there first."
        )
    if complete.sum() < 2:
        raise ValueError(
            f"{who}: at least 2 images are needed for a standard error; got {complete.sum()}, and "
            f"{(~complete).sum()} that are not finite for all configurations and seeds."
        )
    return stacked[..., complete], int((~complete).sum())
