"""Which configuration is better, and by how much: differences over seeds and images, and a ranking with ties."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.evaluation.uniformity import holm
from pyro_vae.evaluation.wording import count, rounded_error

RESAMPLES = 2000
"""Of the bootstrap: an end of a 95 % interval is then known to about a twelfth of the standard error."""

TAIL = 5
"""Resamples that must lie beyond each end of an interval."""

BLOCK = 2**20
"""Images drawn at a time: some tens of megabytes."""

ROUNDING = 1e-9
"""Relative; values whose range is smaller are equal. Of standard deviations for resampled means and the mean."""

TINY = 1e-300
"""p-values below this are not told apart from it."""

HALVINGS = 60
"""Of the bracket of a p-value's logarithm, which is at most 700 wide: to rounding error."""


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
    resampled = _resampled_means(difference.mean(0)[:, None], resamples, seed)[:, 0]
    return _summarize(_Crossed.of(difference), difference.mean(0), resampled, level, num_left_out)


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
        zip(names, _resampled_means(np.stack([of[n].mean(0) for n in names], 1), resamples, seed).T, strict=True)
    )

    pairs = list(itertools.combinations(names, 2))
    crossed = [_Crossed.of(of[first] - of[second]) for first, second in pairs]
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


@dataclass(frozen=True)
class _Crossed:
    """Differences ``(S, N)`` as seeds crossed with images, one value each."""

    mean: float
    seed: float
    """Mean square, as the next two; NaN with one seed."""
    image: float
    residual: float
    """NaN with one seed."""
    seed_df: int
    num_seeds: int
    num_images: int

    @classmethod
    def of(cls, d: np.ndarray) -> "_Crossed":
        (S, N), mean = d.shape, d.mean()
        seeds, images = d.mean(1, keepdims=True) - mean, d.mean(0, keepdims=True) - mean
        image = S * np.square(images).sum() / (N - 1)
        seed = residual = math.nan
        if S > 1:
            seed = N * np.square(seeds).sum() / (S - 1)
            residual = np.square(d - mean - seeds - images).sum() / ((S - 1) * (N - 1))
        return cls(float(mean), float(seed), float(image), float(residual), S - 1, S, N)

    @property
    def components(self) -> tuple[float, float, float]:
        """Standard deviations of seeds, images and residuals; a difference of mean squares below 0 counts as 0."""
        if self.num_seeds == 1:
            return math.nan, math.sqrt(self.image), math.nan
        seed, image = max(self.seed - self.residual, 0), max(self.image - self.residual, 0)
        return math.sqrt(seed / self.num_images), math.sqrt(image / self.num_seeds), math.sqrt(self.residual)

    @property
    def standard_error(self) -> float:
        seed_sd, image_sd, residual_sd = self.components
        if self.num_seeds == 1:
            return image_sd / math.sqrt(self.num_images)
        cells = self.num_seeds * self.num_images
        return math.sqrt(seed_sd**2 / self.num_seeds + image_sd**2 / self.num_images + residual_sd**2 / cells)

    @property
    def _bounds(self) -> list[list[tuple[float, int]]]:
        """Parts of the mean's error, with the degrees of freedom of each: Banerjee's, and what no seed would change."""
        if self.num_seeds == 1:
            return [[(self.standard_error, self.num_images - 1)]]
        cells = self.num_seeds * self.num_images
        image = math.sqrt(max(self.image - self.residual, 0) / cells)
        both = [(math.sqrt(self.seed / cells), self.seed_df), (image, self.num_images - 1)]
        return [both, [(math.sqrt(max(self.image, self.residual) / cells), self.num_images - 1)]]

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the ends of what holds the true mean with probability 1 - alpha or more."""
        h = max(_half_width(parts, alpha) for parts in self._bounds)
        return self.mean - h, self.mean + h

    @property
    def p_value(self) -> float:
        """The alpha at which the interval ends at 0."""
        return max(_p_value(parts, abs(self.mean)) for parts in self._bounds)


def _half_width(parts: list[tuple[float, int]], alpha: float) -> float:
    """Return Banerjee's h, below which the mean's error is with probability 1 - alpha or more.

    With F the distribution function of a squared standard normal, w_k the shares of the mean's variance, and x_k the
    squares of the parts over their expectations, that probability is E F(sum_k w_k t_k^2 x_k). F is concave: that is at
    least sum_k w_k E F(t_k^2 x_k) = 1 - alpha.
    """
    from scipy.special import stdtrit

    return math.hypot(*(float(stdtrit(df, alpha / 2)) * error for error, df in parts))


def _p_value(parts: list[tuple[float, int]], distance: float) -> float:
    """Return the alpha at which Banerjee's h is a distance."""
    from scipy.special import stdtr

    error = math.hypot(*(part for part, _ in parts))
    if error == 0:
        return float(distance == 0)
    # All parts with the quantile of the most degrees of freedom, and of the fewest.
    ends = [2 * float(stdtr(df, -distance / error)) for _, df in parts]
    low, high = min(ends), max(ends)
    if low == high or high < TINY:
        return high
    below, above = math.log(max(low, TINY)), math.log(high)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        if _half_width(parts, math.exp(middle)) > distance:
            below = middle
        else:
            above = middle
    return math.exp(above)


def _decimals(error: float) -> int:
    """Return how many decimals show two digits of an error, from two to six: below that it is rounding, or as good."""
    return min(max(2, 1 - math.floor(math.log10(error))), 6) if error > 0 else 2


def _summarize(
    crossed: _Crossed, per_image: np.ndarray, resampled: np.ndarray, level: float, num_left_out: int
) -> PairedDifference:
    image_interval = _bca_interval(per_image, resampled, level)
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


def _resampled_means(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
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


def _bca_interval(values: np.ndarray, resampled: np.ndarray, level: float) -> tuple[float, float]:
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
