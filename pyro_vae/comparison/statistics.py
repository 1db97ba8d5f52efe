"""Which configuration is better, and by how much: differences over seeds and images, and a ranking with ties."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.comparison.crossed_effects import CrossedEffects
from pyro_vae.comparison.image_bootstrap import bca_interval, resampled_means
from pyro_vae.evaluation.uniformity import holm
from pyro_vae.evaluation.wording import count, rounded_error

RESAMPLES = 2000
"""Of the bootstrap: an end of a 95 % interval is then known to about a twelfth of the standard error."""

TAIL = 5
"""Resamples that must lie beyond each end of an interval."""


@dataclass(frozen=True)
class PairedDifference:
    """What :func:`paired_difference` returns; a - b, in nats per image."""

    mean_difference: float
    """Over images and seeds."""
    image_standard_error: float
    """Paired over images: what other images would change, the trained seeds as they are."""
    image_interval: tuple[float, float]
    """BCa bootstrap interval over images, the trained seeds as they are."""
    seed_sd: float
    """Standard deviation of the seeds' effects on the difference; 0 where its estimate would be negative or is 0, so
    that no spread is found beyond what the images explain; NaN with one seed."""
    image_sd: float
    """Standard deviation of the images' effects, 0 likewise; with one seed of the images' differences as they are."""
    residual_sd: float
    """Standard deviation of what an image does with one seed and not with another; NaN with one seed."""
    standard_error: float
    """Over new seeds and new images; with one seed the same as ``image_standard_error``."""
    interval: tuple[float, float]
    """Holds over new seeds and new images; with one seed the same as ``image_interval``."""
    p_value: float
    """Of no difference, two-sided, over new seeds and new images; with one seed that of the paired t-test."""
    level: float
    """Of both intervals."""
    num_seeds: int
    """S."""
    num_images: int
    """N, without those left out."""
    num_left_out: int
    """Images that are NaN or infinite for a or b with any seed."""

    @property
    def over_seeds(self) -> bool:
        """Whether the interval and p-value hold over new seeds: False with one seed, which knows nothing of others."""
        return self.num_seeds > 1

    def __str__(self) -> str:
        digits = _decimals(self.standard_error)
        low, high = self.interval
        seeds = f"{self.num_seeds} seeds" if self.over_seeds else "one seed, which says nothing of others"
        left_out = f", {self.num_left_out} left out" if self.num_left_out else ""
        return (
            f"{self.mean_difference:+.{digits}f} nats (s.e. {rounded_error(self.standard_error)}, "
            f"{100 * self.level:g} % interval {low:.{digits}f} to {high:.{digits}f}, p = {self.p_value:.2g}; "
            f"{count(self.num_images, 'image')}{left_out}; {seeds})"
        )


@dataclass(frozen=True)
class ComparedPair:
    """One pair of a :class:`Ranking`, corrected for the number of pairs."""

    first: str
    """The one with the better mean."""
    second: str
    difference: PairedDifference
    """First minus second; neither its interval nor its p-value is corrected."""
    interval: tuple[float, float]
    """Of first minus second, over new seeds and images; those of all pairs hold together (Bonferroni)."""
    p_value: float
    """Adjusted by Holm's method."""


@dataclass(frozen=True)
class RankingRow:
    """A configuration's place in a :class:`Ranking`."""

    rank: int
    """One more than the number of configurations that are better by a difference whose adjusted p-value is below
    1 - level."""
    name: str
    mean: float
    """Over seeds and images, nats."""
    to_best: float
    """Its mean minus that of the first row, nats."""
    interval: tuple[float, float]
    """Of ``to_best``; simultaneous with those of all pairs (Bonferroni)."""
    p_value: float
    """Of no difference to the first row, adjusted by Holm's method over all pairs."""


@dataclass(frozen=True)
class Ranking:
    """What :func:`compare_all` returns."""

    rows: tuple[RankingRow, ...]
    """By mean, the best one first; a row of lower mean and larger error may have a smaller rank number."""
    comparisons: tuple[ComparedPair, ...] = field(repr=False)
    """All pairs, in the rows' order."""
    level: float
    """With this probability, or a larger one, no pair is wrongly told apart."""
    num_seeds: int
    """S."""
    num_images: int
    """N, without those left out."""
    num_left_out: int
    """Images that are NaN or infinite for any configuration with any seed."""
    pool_seeds: bool
    """Whether seeds were taken to spread all differences alike."""

    @property
    def best(self) -> tuple[str, ...]:
        """Names of all that are tied for the first rank."""
        return tuple(row.name for row in self.rows if row.rank == 1)

    def __str__(self) -> str:
        digits = max(_decimals(pair.difference.standard_error) for pair in self.comparisons)
        cells = [("rank", "name", "nats", "to the best", f"{100 * self.level:g} % interval", "p")]
        for at, row in enumerate(self.rows):
            interval = f"[{row.interval[0]:.{digits}f}, {row.interval[1]:.{digits}f}]"
            differs = (f"{row.to_best:+.{digits}f}", interval, f"{row.p_value:.2g}") if at else ("", "", "")
            cells.append((str(row.rank), row.name, f"{row.mean:.{digits}f}", *differs))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 1 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        left_out = f" ({self.num_left_out} left out)" if self.num_left_out else ""
        seeds = f"{self.num_seeds} seeds" if self.num_seeds > 1 else "one seed, which says nothing of others"
        pooled = ", whose spread is taken to be the same for all" if self.pool_seeds and self.num_seeds > 1 else ""
        lines.append(
            f"{count(self.num_images, 'image')}{left_out}; {seeds}{pooled}; corrected for "
            f"{count(len(self.comparisons), 'pair')} (intervals by Bonferroni, p by Holm)"
        )
        return "\n".join(line.rstrip() for line in lines)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    r"""Compare two configurations that were trained from several seeds and measured on the same images.

    Seeds and images are both drawn from many, and crossed:

    .. math:: d_{si} = a_{si} - b_{si} = \mu + \mathrm{seed}_s + \mathrm{image}_i + e_{si}

    with mean squares :math:`M_\mathrm{seed}, M_\mathrm{image}, M_e`. The variance of the mean over S seeds and N images
    is estimated by the components, of which none is taken to be negative:

    .. math:: \mathrm{s.e.}^2 = \frac{(M_\mathrm{seed} - M_e)_+ + (M_\mathrm{image} - M_e)_+ + M_e}{S N}.

    Half the interval's width h is that of Banerjee, each part with a t quantile of its own degrees of freedom,

    .. math:: h^2 = \frac{t_{S-1}^2 M_\mathrm{seed} + t_{N-1}^2 (M_\mathrm{image} - M_e)_+}{S N},

    or what it is with the seeds as they are, if that is more. The p-value is one minus the level at which the interval
    ends at 0. A t quantile with Satterthwaite's (1946) degrees of freedom for the sum would cover only 87 % at a
    nominal 95 % with two seeds that make up nine tenths of the variance, and 94 % at 99.5 %; this covers the nominal
    level at least where effects are normal and images many, and 99.3 % at most at 95 % with two seeds.

    Seeds are paired by position. That is right whether or not equal seeds share anything: if they do not, the seeds'
    effects on the difference are those of both. Effects of seeds are taken to be normal. Those of images need not be if
    there are many: of lognormal ones, image intervals cover about 92 % with 200 images, but 88 % with 30.

    Images that are left out are no random ones: what is flagged is often what a guide is worst at.

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
        B. Efron, R. J. Tibshirani (1993), *An introduction to the bootstrap*, Chapman & Hall, chapter 14 (BCa).
        F. E. Satterthwaite (1946), *An approximate distribution of estimates of variance components*, Biometrics
        Bulletin 2, 110-114.
        S. R. Searle, G. Casella, C. E. McCulloch (1992), *Variance components*, Wiley, chapter 4 (crossed, ANOVA).

    >>> found = paired_difference([[1.0, 2.0], [3.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]])
    >>> found.mean_difference, round(found.seed_sd**2, 9), round(found.image_sd**2, 9), found.residual_sd
    (3.5, 6.0, 2.5, 2.0)
    >>> round(found.standard_error**2, 9), found.over_seeds
    (5.25, True)
    """
    values, num_left_out = _common_images("paired_difference", {"a": a, "b": b}, level, resamples)
    difference = values[0] - values[1]
    resampled = resampled_means(difference.mean(0)[:, None], resamples, seed)[:, 0]
    return _summarize(CrossedEffects.of(difference), difference.mean(0), resampled, level, num_left_out)


def compare_all(
    values: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    higher_is_better: bool = True,
    pool_seeds: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank configurations, with ties: two are told apart where their difference stands the number of differences.

    All pairs are compared as in :func:`paired_difference`, on the images that are finite for all. Their p-values are
    adjusted together by Holm's method, so that with probability ``level`` or more no two configurations are told apart
    that do not differ. Intervals are simultaneous by Bonferroni, each at level 1 - (1 - level) / number of pairs;
    they ask for more than Holm's tests, so that one may hold 0 where the adjusted p-value is well below 1 - level, but
    not the other way round. With one seed they are t intervals over images.

    The correction is costly with few seeds: of 12 configurations with 3 seeds each, an interval is 36 standard errors
    to either side where seeds are most of them. ``pool_seeds`` avoids that by an assumption: seeds spread all
    configurations alike, and the spread is estimated from all C of them, with (C - 1)(S - 1) degrees of freedom instead
    of S - 1. Where a configuration varies more than others from seed to seed, its differences then look more certain
    than they are: with one of six that varies ten times as much, 13 % of rankings at a level of 95 % tell equals apart.

    Args:
        values: nats per image of each configuration, by name: all ``(S, N)``, or ``(N,)`` for one seed; NaN where an
            image was flagged.
        level: of everything together, between 0 and 1.
        higher_is_better: False for gaps.
        pool_seeds: assume that the spread of a difference over seeds is the same for all pairs.
        resamples: of the bootstrap over images, for :attr:`PairedDifference.image_interval`.
        seed: of the bootstrap.

    Raises:
        ValueError: there are fewer than 2 configurations, or what :func:`paired_difference` raises.

    References:
        S. Holm (1979), *A simple sequentially rejective multiple test procedure*, Scandinavian J. of Statistics 6,
        65-70.

    >>> print(compare_all({"planar": [1.0, 2.0, 2.0], "iaf": [2.0, 4.0, 3.0], "copy": [1.0, 2.0, 2.0]}))
    rank  name    nats  to the best   95 % interval     p
       1  iaf     3.00
       1  copy    1.67        -1.33  [-3.88, 1.22]  0.17
       1  planar  1.67        -1.33  [-3.88, 1.22]  0.17
    3 images; one seed, which says nothing of others; corrected for 3 pairs (intervals by Bonferroni, p by Holm)
    """
    if len(values) < 2:
        raise ValueError(
            f"compare_all: `values` must hold at least 2 configurations by name; got {len(values)}. Seeds of one "
            f"configuration are the rows of its array."
        )
    kept, num_left_out = _common_images("compare_all", values, level, resamples)
    sign = -1 if higher_is_better else 1
    means = dict(zip(values, kept.mean((1, 2)).tolist(), strict=True))
    names = sorted(means, key=lambda name: (sign * means[name], name))
    of = dict(zip(values, kept, strict=True))
    resampled = dict(
        zip(names, resampled_means(np.stack([of[n].mean(0) for n in names], 1), resamples, seed).T, strict=True)
    )

    pairs = list(itertools.combinations(names, 2))
    crossed = [CrossedEffects.of(of[first] - of[second]) for first, second in pairs]
    if pool_seeds:
        # The mean over pairs of M_seed is twice the mean square of the interaction of configurations and seeds.
        pooled = float(np.mean([one.seed for one in crossed]))
        crossed = [replace(one, seed=pooled, seed_df=(len(names) - 1) * one.seed_df) for one in crossed]
    differences = [
        _summarize(one, (of[i] - of[j]).mean(0), resampled[i] - resampled[j], level, num_left_out)
        for one, (i, j) in zip(crossed, pairs, strict=True)
    ]
    adjusted = holm(np.array([difference.p_value for difference in differences])).tolist()
    comparisons = {
        pair: ComparedPair(*pair, difference, one.interval((1 - level) / len(pairs)), p_value)
        for pair, difference, one, p_value in zip(pairs, differences, crossed, adjusted, strict=True)
    }
    rows = [RankingRow(1, names[0], means[names[0]], 0.0, (0.0, 0.0), 1.0)]
    for at, name in enumerate(names[1:], start=1):
        to_best = comparisons[names[0], name]
        rank = 1 + sum(comparisons[better, name].p_value < 1 - level for better in names[:at])
        # 0.0 - x, as -x of 0 is printed with its sign.
        low, high = to_best.interval
        mean_difference = 0.0 - to_best.difference.mean_difference
        rows.append(RankingRow(rank, name, means[name], mean_difference, (0.0 - high, 0.0 - low), to_best.p_value))
    _, num_seeds, num_images = kept.shape
    return Ranking(tuple(rows), tuple(comparisons.values()), level, num_seeds, num_images, num_left_out, pool_seeds)


def _decimals(error: float) -> int:
    """Return how many decimals show two digits of an error, from two to six: below that it is rounding, or as good."""
    return min(max(2, 1 - math.floor(math.log10(error))), 6) if error > 0 else 2


def _summarize(
    crossed: CrossedEffects, per_image: np.ndarray, resampled: np.ndarray, level: float, num_left_out: int
) -> PairedDifference:
    image_interval = bca_interval(per_image, resampled, level)
    one_seed = crossed.num_seeds == 1
    return PairedDifference(
        crossed.mean,
        math.sqrt(crossed.image / (crossed.num_seeds * crossed.num_images)),
        image_interval,
        *crossed.components,
        crossed.standard_error,
        image_interval if one_seed else crossed.interval(1 - level),
        crossed.p_value,
        level,
        crossed.num_seeds,
        crossed.num_images,
        num_left_out,
    )


def _common_images(who: str, values: Mapping[str, ArrayLike], level: float, resamples: int) -> tuple[np.ndarray, int]:
    """Return what is finite for all configurations and seeds, ``(C, S, N)``, and how many images are not."""
    if not 0 < level < 1:
        raise ValueError(f"{who}: `level` must lie between 0 and 1; got {level}. Is it a percentage? 95 % is 0.95.")
    least = math.ceil(2 * TAIL / (1 - level) - 1e-9)
    if resamples < least:
        raise ValueError(
            f"{who}: `resamples` must be at least {least} for level {level:g}, so that {TAIL} lie beyond each end; got "
            f"{resamples}."
        )
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or array.size == 0:
            raise ValueError(
                f"{who}: {name!r} must be (num_seeds, num_images), or (num_images,) for one seed; got shape "
                f"{array.shape}."
            )
    (first, shape), *others = [(name, np.atleast_2d(array).shape) for name, array in arrays.items()]
    for name, other in others:
        if other[1] != shape[1]:
            raise ValueError(
                f"{who}: {first!r} and {name!r} must be measured on the same images, in the same order; got "
                f"{shape[1]} and {other[1]} images. Evaluate both on the same test set; a flagged image is NaN, not "
                f"missing."
            )
        if other[0] != shape[0]:
            raise ValueError(
                f"{who}: {first!r} and {name!r} must have as many seeds, as they are paired by position; got "
                f"{shape[0]} and {other[0]}. Train the missing ones, or pass the first {min(shape[0], other[0])} rows "
                f"of both."
            )
    stacked = np.stack([np.atleast_2d(array) for array in arrays.values()])
    finite = np.isfinite(stacked)
    there = finite.all((0, 1))
    if not there.any():
        at, fewest = np.unravel_index(finite.sum(-1).argmin(), finite.shape[:2])
        raise ValueError(
            f"{who}: no image of {there.size} is finite for all configurations and seeds. The fewest, "
            f"{finite[at, fewest].sum()}, are finite for {list(arrays)[at]!r}, row {fewest}: look there first."
        )
    if there.sum() < 2:
        raise ValueError(
            f"{who}: at least 2 images are needed for a standard error; got {there.sum()}, and "
            f"{(~there).sum()} that are not finite for all configurations and seeds."
        )
    return stacked[..., there], int((~there).sum())
