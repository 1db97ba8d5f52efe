"""A ranking of configurations with ties, from the differences of all pairs over seeds and images."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.runtime.wording import count
from pyro_vae.statistics.crossed_effects import CrossedEffects
from pyro_vae.statistics.image_bootstrap import image_intervals
from pyro_vae.statistics.paired_difference import (
    ONE_SEED,
    RESAMPLES,
    PairedDifference,
    common_images,
    decimals,
    negated,
    summarize,
)

# Defined here in earlier versions: imports from here still work.
from pyro_vae.statistics.paired_difference import paired_difference as paired_difference
from pyro_vae.statistics.seed_spread import SeedSpread, seed_spread
from pyro_vae.statistics.uniformity import holm


@dataclass(frozen=True)
class ComparedPair:
    """One pair of a :class:`Ranking`, corrected for the number of pairs."""

    first: str
    """Name of the configuration with the better mean."""
    second: str
    difference: PairedDifference
    """First minus second; neither its interval nor its p-value is corrected."""
    interval: tuple[float, float]
    """Of first minus second, over new seeds and images; simultaneous with those of all pairs (Bonferroni)."""
    image_interval: tuple[float, float]
    """The same over new images only, for the trained seeds at hand."""
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
    """The same over new images only, for the trained seeds at hand."""
    p_value: float
    """Of no difference to the first row, adjusted by Holm's method over all pairs."""


@dataclass(frozen=True)
class Ranking:
    """Configurations by their means, with the differences of all pairs, as :func:`compare_all` returns them."""

    rows: tuple[RankingRow, ...]
    """By mean, the best one first; a row of lower mean and larger error may have a smaller rank number."""
    comparisons: tuple[ComparedPair, ...] = field(repr=False)
    """All pairs, in the rows' order."""
    level: float
    """The least probability that no pair of equal configurations is told apart."""
    num_seeds: int
    """S."""
    num_images: int
    """N, without the images that are left out."""
    num_left_out: int
    """Images that are NaN or infinite for any configuration with any seed."""
    seed_df: float
    """Degrees of freedom of the spread over seeds; 0 with one seed."""
    prior_df: float
    """d0 of :class:`pyro_vae.statistics.seed_spread.SeedSpread`: infinite if all configurations share one spread, 0
    with one seed."""
    unit: str = "nats"
    """Unit of the quantity in :meth:`__str__`."""

    @property
    def best(self) -> tuple[str, ...]:
        """Names of the configurations of rank 1."""
        return tuple(row.name for row in self.rows if row.rank == 1)

    def __str__(self) -> str:
        digits = max(decimals(pair.difference.standard_error) for pair in self.comparisons)
        level = f"{100 * self.level:g} %"
        cells = [["rank", "name", self.unit, "to the best", f"{level} interval", f"{level} of these runs", "p"]]
        for row in self.rows:
            intervals = [f"[{low:.{digits}f}, {high:.{digits}f}]" for low, high in (row.interval, row.image_interval)]
            to_best = [f"{row.to_best:+.{digits}f}", *intervals, f"{row.p_value:.2g}"]
            to_best = [""] * len(to_best) if row is self.rows[0] else to_best
            cells.append([str(row.rank), row.name, f"{row.mean:.{digits}f}", *to_best])
        if self.num_seeds == 1:
            # Both intervals are the same.
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


def compare_all(
    values: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank configurations, with ties: two are told apart if their difference is significant among all pairs.

    All pairs are compared as in :func:`pyro_vae.statistics.paired_difference.paired_difference` except for the spread
    over seeds, on the images that are finite for all configurations. Their p-values are adjusted together by Holm's
    method, so that with probability ``level`` or more no two equal configurations are told apart. Intervals are
    simultaneous by Bonferroni, each at level 1 - (1 - level) / number of pairs. They are stricter than Holm's tests: an
    interval may hold 0 although the adjusted p-value is well below 1 - level, but not the other way round. With one
    seed they are t intervals over images.

    The variance over seeds is estimated from all configurations together, by
    :func:`pyro_vae.statistics.seed_spread.seed_spread`. If the variances of the configurations differ by no more than
    chance, they are pooled, and their degrees of freedom add up to (C - 1)(S - 1). Otherwise each is shrunk towards the
    others, the more the more alike they are. A single pair with 2 seeds has one degree of freedom; corrected for 45
    pairs, half its interval is 573 standard errors wide. With ten configurations it has nine degrees of freedom, and
    half its interval is 4.7 standard errors wide.

    Before the correction, with normal seeds, intervals cover 94 to 96 % at a nominal 95 % if spreads are equal, and 92
    to 96 % on average over pairs if they differ by a factor of three. The average includes configurations with a large
    spread, whose intervals are too narrow, and with a small spread, whose intervals are too wide: two seeds do not
    suffice to tell them apart. If one configuration of ten varies ten times as much as the others, its own intervals
    cover 62, 74 and 87 % with 2, 3 and 5 seeds. If that is likely, compare the pair by ``paired_difference``, which
    uses no other configuration.

    ``image_interval`` is over new images, for the trained seeds at hand.

    Args:
        values: nats per image of each configuration, by name: all ``(S, N)``, or ``(N,)`` for one seed; NaN where an
            image was flagged.
        level: of all statements together, between 0 and 1.
        higher_is_better: False for gaps.
        resamples: of the bootstrap over images, for :attr:`PairedDifference.image_interval`.
        seed: of the bootstrap.

    Raises:
        ValueError: there are fewer than 2 configurations; or in the cases of ``paired_difference``.

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
    nats, num_left_out = common_images("compare_all", values, level, resamples)
    sign = -1 if higher_is_better else 1
    means = dict(zip(values, nats.mean((1, 2)).tolist(), strict=True))
    names = sorted(means, key=lambda name: (sign * means[name], name))
    nats_of = dict(zip(values, nats, strict=True))
    _, num_seeds, num_images = nats.shape
    # One seed has no spread.
    spread = seed_spread(nats.mean(2)) if num_seeds > 1 else SeedSpread(np.full(len(values), np.nan), 0.0, 0.0)
    seed_variance = dict(zip(values, spread.variances.tolist(), strict=True))
    pairs = list(itertools.combinations(names, 2))
    crossed: list[CrossedEffects] = []
    by_image: list[np.ndarray] = []
    for first, second in pairs:
        difference = nats_of[first] - nats_of[second]
        seed_square = num_images * (seed_variance[first] + seed_variance[second])
        crossed.append(replace(CrossedEffects.of(difference), seed=seed_square, seed_df=spread.df))
        by_image.append(difference.mean(0))
    intervals = image_intervals(np.stack(by_image, 1), level, resamples, seed)
    differences = []
    for effects, interval in zip(crossed, intervals, strict=True):
        differences.append(summarize(effects, interval, level, num_left_out))
    adjusted = holm(np.array([difference.p_value for difference in differences])).tolist()
    alpha = (1 - level) / len(pairs)
    comparisons = {}
    for pair, difference, effects, p_value in zip(pairs, differences, crossed, adjusted, strict=True):
        simultaneous = effects.interval(alpha), effects.image_interval(alpha)
        comparisons[pair] = ComparedPair(*pair, difference, *simultaneous, p_value)
    best = names[0]
    rows = [RankingRow(1, best, means[best], 0.0, (0.0, 0.0), (0.0, 0.0), 1.0)]
    for at, name in enumerate(names[1:], start=1):
        to_best = comparisons[best, name]
        rows.append(
            RankingRow(
                rank=1 + sum(comparisons[better, name].p_value < 1 - level for better in names[:at]),
                name=name,
                mean=means[name],
                to_best=to_best.difference.reversed().mean_difference,
                interval=negated(to_best.interval),
                image_interval=negated(to_best.image_interval),
                p_value=to_best.p_value,
            )
        )
    return Ranking(
        tuple(rows), tuple(comparisons.values()), level, num_seeds, num_images, num_left_out, spread.df, spread.prior_df
    )
