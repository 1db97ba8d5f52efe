"""Which configuration is better, and by how much: differences over seeds and images, and a ranking with ties."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.runtime.wording import count, rounded_error
from pyro_vae.statistics.crossed_effects import CrossedEffects
from pyro_vae.statistics.image_bootstrap import image_intervals
from pyro_vae.statistics.seed_spread import seed_spread
from pyro_vae.statistics.uniformity import holm

RESAMPLES = 2000
"""Of the bootstrap: an end of a 95 % interval is then known to about a twelfth of the standard error."""

TAIL = 5
"""Resamples that must lie beyond each end of an interval."""

ONE_SEED = "one seed, which says nothing of others"


@dataclass(frozen=True)
class PairedDifference:
    """What :func:`paired_difference` returns; a - b, in nats per image."""

    mean_difference: float
    """Over images and seeds."""
    image_standard_error: float
    """Paired over images: what other images would change, the trained seeds as they are."""
    image_interval: tuple[float, float]
    """Bootstrap-t interval over images, the trained seeds as they are: it says nothing of other seeds."""
    seed_sd: float
    """Standard deviation of the seeds' effects on the difference; 0 where its estimate would be negative or is 0, so
    that no spread is found beyond what the images explain; NaN with one seed."""
    image_sd: float
    """Standard deviation of the images' effects, 0 likewise; with one seed that of the images' differences."""
    residual_sd: float
    """Standard deviation of the residuals, which seed and image effects do not explain; NaN with one seed."""
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
    seed_df: float
    """Degrees of freedom of the spread over seeds: S - 1 of the pair alone, more where it was compared with others; 0
    with one seed."""
    unit: str = "nats"
    """Of the quantity, as :meth:`__str__` says it."""

    @property
    def over_seeds(self) -> bool:
        """Whether the interval and p-value hold over new seeds: False with one seed."""
        return self.num_seeds > 1

    def reversed(self) -> "PairedDifference":
        """Return b - a."""
        return replace(
            self,
            mean_difference=0.0 - self.mean_difference,
            image_interval=_reversed(self.image_interval),
            interval=_reversed(self.interval),
        )

    def __str__(self) -> str:
        digits = _decimals(self.standard_error)
        interval, of_runs = (
            f"{low:.{digits}f} to {high:.{digits}f}" for low, high in (self.interval, self.image_interval)
        )
        if self.over_seeds:
            interval = f"{interval}, of these runs {of_runs}"
        seeds = f"{self.num_seeds} seeds" if self.over_seeds else ONE_SEED
        left_out = f", {self.num_left_out} left out" if self.num_left_out else ""
        return (
            f"{self.mean_difference:+.{digits}f} {self.unit} (s.e. {rounded_error(self.standard_error)}, "
            f"{100 * self.level:g} % interval {interval}, p = {self.p_value:.2g}; "
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
    image_interval: tuple[float, float]
    """The same of these very runs, over new images only: it says nothing of other seeds."""
    p_value: float
    """Adjusted by Holm's method, over new seeds and images."""


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
    """Of ``to_best``, over new seeds and images; simultaneous with those of all pairs (Bonferroni)."""
    image_interval: tuple[float, float]
    """The same of these very runs, over new images only."""
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
    seed_df: float
    """Degrees of freedom of the spread over seeds; 0 with one seed."""
    prior_df: float
    """d0 of :class:`pyro_vae.statistics.seed_spread.SeedSpread`: infinite where all configurations share one spread, 0
    with one seed."""
    unit: str = "nats"
    """Of the quantity, as :meth:`__str__` says it."""

    @property
    def best(self) -> tuple[str, ...]:
        """Names of all that are tied for the first rank."""
        return tuple(row.name for row in self.rows if row.rank == 1)

    def __str__(self) -> str:
        digits = max(_decimals(pair.difference.standard_error) for pair in self.comparisons)
        level = f"{100 * self.level:g} %"
        cells = [["rank", "name", self.unit, "to the best", f"{level} interval", f"{level} of these runs", "p"]]
        for row in self.rows:
            intervals = [f"[{low:.{digits}f}, {high:.{digits}f}]" for low, high in (row.interval, row.image_interval)]
            beside = [f"{row.to_best:+.{digits}f}", *intervals, f"{row.p_value:.2g}"]
            beside = beside if row is not self.rows[0] else [""] * len(beside)
            cells.append([str(row.rank), row.name, f"{row.mean:.{digits}f}", *beside])
        if self.num_seeds == 1:
            # Both intervals are the same then.
            for line in cells:
                del line[4]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = [str.rjust, str.ljust, *[str.rjust] * (len(widths) - 2)]
        lines = [
            "  ".join(pad(cell, width) for pad, cell, width in zip(aligned, row, widths, strict=True)) for row in cells
        ]
        left_out = f" ({self.num_left_out} left out)" if self.num_left_out else ""
        lines.append(
            f"{count(self.num_images, 'image')}{left_out}; {self.seeds_in_words}; corrected for "
            f"{count(len(self.comparisons), 'pair')} (intervals by Bonferroni, p by Holm)"
        )
        return "\n".join(line.rstrip() for line in lines)

    @property
    def seeds_in_words(self) -> str:
        """How many seeds there are, and how their spread was estimated."""
        if self.num_seeds == 1:
            return ONE_SEED
        configurations, df = len(self.rows), f"{self.seed_df:.3g} degree{'' if self.seed_df == 1 else 's'} of freedom"
        if configurations == 2:
            return f"{self.num_seeds} seeds ({df})"
        how = "spread is pooled over" if math.isinf(self.prior_df) else "spreads differ and are shrunk towards that of"
        return f"{self.num_seeds} seeds, whose {how} {configurations} configurations ({df})"


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
    there are many: of lognormal ones, image intervals cover 95 % with 200 images, and 92 % with 50.

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
    values, num_left_out = _common_images("paired_difference", {"a": a, "b": b}, level, resamples)
    difference = values[0] - values[1]
    (image_interval,) = image_intervals(difference.mean(0)[:, None], level, resamples, seed)
    return _summarize(CrossedEffects.of(difference), image_interval, level, num_left_out)


def compare_all(
    values: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank configurations, with ties: two are told apart where their difference is significant among all pairs.

    All pairs are compared as in :func:`paired_difference` but for the spread over seeds, on the images that are finite
    for all. Their p-values are adjusted together by Holm's method, so that with probability ``level`` or more no two
    configurations are told apart that do not differ. Intervals are simultaneous by Bonferroni, each at level
    1 - (1 - level) / number of pairs; they ask for more than Holm's tests, so that one may hold 0 where the adjusted
    p-value is well below 1 - level, but not the other way round. With one seed they are t intervals over images.

    What seeds change is estimated from all configurations together, by
    :func:`pyro_vae.statistics.seed_spread.seed_spread`: where their variances over seeds differ by no more than chance,
    they are pooled, and their degrees of freedom add up to (C - 1)(S - 1); else each is shrunk towards the others', as
    far as they are alike. Alone, a pair of 2 seeds has one degree of freedom, and corrected for 45 pairs an interval of
    573 standard errors to either side; of ten configurations together it has nine, and 4.7 standard errors.

    Before the correction, with normal seeds, intervals cover 94 to 96 % at a nominal 95 % where spreads are equal, and
    92 to 96 % on average over pairs where they differ by a factor of three. The average includes configurations with a
    large spread, whose intervals are too narrow, and with a small one, whose intervals are too wide: two seeds cannot
    tell them apart. With one configuration of ten that varies ten times as much as the others, its own intervals cover
    62, 74 and 87 % with 2, 3 and 5 seeds. Where that is likely, compare the pair by :func:`paired_difference`, which
    uses no other configuration.

    ``image_interval`` is about these runs: it holds over new images, with the seeds as they are.

    Args:
        values: nats per image of each configuration, by name: all ``(S, N)``, or ``(N,)`` for one seed; NaN where an
            image was flagged.
        level: of everything together, between 0 and 1.
        higher_is_better: False for gaps.
        resamples: of the bootstrap over images, for :attr:`PairedDifference.image_interval`.
        seed: of the bootstrap.

    Raises:
        ValueError: there are fewer than 2 configurations, or what :func:`paired_difference` raises.

    References:
        S. Holm (1979), *A simple sequentially rejective multiple test procedure*, Scandinavian J. of Statistics 6,
        65-70.

    >>> print(compare_all({"planar": [1.0, 2.0, 2.0], "iaf": [2.0, 4.0, 3.0], "copy": [1.0, 2.0, 2.0]}))
    rank  name    nats  to the best  95 % of these runs     p
       1  iaf     3.00
       1  copy    1.67        -1.33       [-3.88, 1.22]  0.17
       1  planar  1.67        -1.33       [-3.88, 1.22]  0.17
    3 images; one seed, which says nothing of others; corrected for 3 pairs (intervals by Bonferroni, p by Holm)
    """
    if len(values) < 2:
        raise ValueError(
            f"compare_all: values must hold at least 2 configurations by name; got {len(values)}. Seeds of one "
            f"configuration are the rows of its array."
        )
    nats, num_left_out = _common_images("compare_all", values, level, resamples)
    sign = -1 if higher_is_better else 1
    means = dict(zip(values, nats.mean((1, 2)).tolist(), strict=True))
    names = sorted(means, key=lambda name: (sign * means[name], name))
    nats_of = dict(zip(values, nats, strict=True))
    pairs = list(itertools.combinations(names, 2))
    crossed = [CrossedEffects.of(nats_of[first] - nats_of[second]) for first, second in pairs]
    _, num_seeds, num_images = nats.shape
    seed_df = prior_df = 0.0
    if num_seeds > 1:
        spread = seed_spread(nats.mean(2))
        seed_df, prior_df = spread.df, spread.prior_df
        variance = dict(zip(values, spread.variances.tolist(), strict=True))
        crossed = [
            replace(effects, seed=num_images * (variance[first] + variance[second]), seed_df=seed_df)
            for effects, (first, second) in zip(crossed, pairs, strict=True)
        ]
    by_image = np.stack([(nats_of[first] - nats_of[second]).mean(0) for first, second in pairs], 1)
    differences = [
        _summarize(effects, image_interval, level, num_left_out)
        for effects, image_interval in zip(crossed, image_intervals(by_image, level, resamples, seed), strict=True)
    ]
    adjusted = holm(np.array([difference.p_value for difference in differences])).tolist()
    alpha = (1 - level) / len(pairs)
    comparisons = {
        pair: ComparedPair(*pair, difference, effects.interval(alpha), effects.image_interval(alpha), p_value)
        for pair, difference, effects, p_value in zip(pairs, differences, crossed, adjusted, strict=True)
    }
    rows = [RankingRow(1, names[0], means[names[0]], 0.0, (0.0, 0.0), (0.0, 0.0), 1.0)]
    for at, name in enumerate(names[1:], start=1):
        to_best = comparisons[names[0], name]
        rank = 1 + sum(comparisons[better, name].p_value < 1 - level for better in names[:at])
        mean_difference = to_best.difference.reversed().mean_difference
        intervals = _reversed(to_best.interval), _reversed(to_best.image_interval)
        rows.append(RankingRow(rank, name, means[name], mean_difference, *intervals, to_best.p_value))
    return Ranking(
        tuple(rows), tuple(comparisons.values()), level, num_seeds, num_images, num_left_out, seed_df, prior_df
    )


def _reversed(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of the negative difference."""
    low, high = interval
    # -x of 0 would be printed as -0.
    return 0.0 - high, 0.0 - low


def _decimals(error: float) -> int:
    """Return how many decimals show two digits of an error: at least two, and at most six, as more are rounding."""
    return min(max(2, 1 - math.floor(math.log10(error))), 6) if error > 0 else 2


def _summarize(
    crossed: CrossedEffects, image_interval: tuple[float, float], level: float, num_left_out: int
) -> PairedDifference:
    one_seed = crossed.num_seeds == 1
    return PairedDifference(
        crossed.mean,
        crossed.image_standard_error,
        image_interval,
        *crossed.components,
        crossed.standard_error,
        image_interval if one_seed else crossed.interval(1 - level),
        crossed.p_value,
        level,
        crossed.num_seeds,
        crossed.num_images,
        num_left_out,
        crossed.seed_df,
    )


def _common_images(who: str, values: Mapping[str, ArrayLike], level: float, resamples: int) -> tuple[np.ndarray, int]:
    """Return what is finite for all configurations and seeds, ``(C, S, N)``, and how many images are not."""
    if not 0 < level < 1:
        raise ValueError(f"{who}: level must lie between 0 and 1; got {level}. Is it a percentage? 95 % is 0.95.")
    least = math.ceil(2 * TAIL / (1 - level) - 1e-9)
    if resamples < least:
        raise ValueError(
            f"{who}: resamples must be at least {least} for level {level:g}, so that {TAIL} lie beyond each end; got "
            f"{resamples}."
        )
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or array.size == 0:
            raise ValueError(
                f"{who}: {name!r} must be (num_seeds, num_images), or (num_images,) for one seed; got shape "
                f"{array.shape}."
            )
    rows = {name: np.atleast_2d(array) for name, array in arrays.items()}
    first = next(iter(rows))
    S, N = rows[first].shape
    for name, (num_seeds, num_images) in ((name, array.shape) for name, array in rows.items()):
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
    stacked = np.stack(list(rows.values()))
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
