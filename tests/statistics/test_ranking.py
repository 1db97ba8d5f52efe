"""Differences and rankings against t-tests, an analysis and a bootstrap by hand, and simulated truths."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.statistics.crossed_effects import CrossedEffects
from pyro_vae.statistics.image_bootstrap import image_intervals
from pyro_vae.statistics.paired_difference import PairedDifference, paired_difference
from pyro_vae.statistics.ranking import compare_all
from pyro_vae.statistics.seed_spread import seed_spread

LEVEL = 0.95


def zeros_like(d):
    return np.zeros(np.shape(d))


def numbers(found, *, bootstrap=True):
    """All of a difference's numbers in a row; without those that depend on the order of images."""
    named = {name: value for name, value in vars(found).items() if bootstrap or name != "image_interval"}
    del named["unit"]
    return np.hstack(list(named.values()))


def test_both_say_their_unit(four):
    ranking = replace(compare_all(four), unit="bits")
    assert str(ranking).splitlines()[0].split()[:3] == ["rank", "name", "bits"]
    difference = paired_difference(four["a"], four["b"])
    assert " nats (s.e." in str(difference)
    assert " bits (s.e." in str(replace(difference, unit="bits"))


def simulate(rng, *, S, N=200, seed_sd=0.0, images="normal", residual_sd=0.5):
    """Differences ``(S, N)`` of mean 0, and what the seeds at hand add to it."""
    image = {
        "normal": lambda: rng.normal(0, 1, N),
        "lognormal": lambda: rng.lognormal(0, 1, N) - np.exp(0.5),
    }[images]()
    seeds = rng.normal(0, seed_sd, (S, 1)) if seed_sd else np.zeros((S, 1))
    return seeds + image + rng.normal(0, residual_sd, (S, N)), seeds.mean()


@pytest.fixture
def four():
    """Four configurations of three seeds and 50 images, the images' log-likelihoods far from 0."""
    rng = np.random.default_rng(1)
    image = rng.normal(-90, 10, 50)
    return {name: image + shift + rng.normal(0, 1, (3, 50)) for shift, name in enumerate(["c", "a", "d", "b"])}


# Exact oracles


def test_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(-90, 10, (2, 40))
    found, theirs = paired_difference(a, b), stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
    assert found.mean_difference == pytest.approx((a - b).mean(), rel=1e-12)
    assert found.standard_error == pytest.approx((a - b).std(ddof=1) / 40**0.5, rel=1e-12)
    assert found.image_sd == pytest.approx((a - b).std(ddof=1), rel=1e-12)
    assert found.image_standard_error == found.standard_error
    assert found.interval == found.image_interval
    assert np.isnan([found.seed_sd, found.residual_sd]).all()
    assert not found.over_seeds
    assert "one seed, which says nothing of others" in str(found)
    assert paired_difference(a[None], b[None]).p_value == found.p_value


def test_two_seeds_and_two_images_by_hand():
    """Seed means 1.5 and 5.5, image means 2 and 5, residuals +-1: mean squares 16, 9 and 4, each of one degree."""
    found = paired_difference([[1.0, 2.0], [3.0, 8.0]], np.zeros((2, 2)))
    assert found.mean_difference == 3.5
    assert found.seed_sd**2 == pytest.approx((16 - 4) / 2)
    assert found.image_sd**2 == pytest.approx((9 - 4) / 2)
    assert found.residual_sd**2 == 4
    assert found.standard_error**2 == pytest.approx((16 + 9 - 4) / 4)
    assert found.image_standard_error**2 == pytest.approx(9 / 4)
    half = stats.t.isf(0.025, 1) * 5.25**0.5
    assert found.interval == pytest.approx((3.5 - half, 3.5 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(3.5 / 5.25**0.5, 1))
    assert (found.num_seeds, found.num_images, found.num_left_out, found.level) == (2, 2, 0, 0.95)
    assert found.over_seeds


def test_components_that_would_be_negative_are_zero_and_the_residuals_still_count():
    """Mean squares 0, 0 and 1: all that there is are residuals of +-0.5."""
    found = paired_difference([[1.0, 0.0], [0.0, 1.0]], np.zeros((2, 2)))
    assert (found.seed_sd, found.image_sd, found.residual_sd) == (0, 0, 1)
    assert found.standard_error == 0.5
    half = stats.t.isf(0.025, 1) * 0.5
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert found.p_value == pytest.approx(0.5)


def test_where_only_seeds_differ_it_is_their_t_test():
    seeds = np.array([0.3, 0.5, 0.1, 0.9])
    found = paired_difference(np.repeat(seeds[:, None], 30, 1), np.zeros((4, 30)))
    theirs = stats.ttest_1samp(seeds, 0)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    assert found.seed_sd == pytest.approx(seeds.std(ddof=1))


def test_where_only_images_differ_it_is_their_t_test():
    d = np.random.default_rng(0).normal(0.3, 1, 30)
    found = paired_difference(np.stack([d] * 4), np.zeros((4, 30)))
    theirs = stats.ttest_1samp(d, 0)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)


def test_components_are_those_of_a_least_squares_fit():
    d, _ = simulate(np.random.default_rng(3), S=4, N=15, seed_sd=1)
    seed, image = np.repeat(np.arange(4), 15), np.tile(np.arange(15), 4)
    of_seeds, of_images = np.eye(4)[seed], np.eye(15)[image]

    def unexplained(*columns):
        design = np.column_stack([np.ones(60), *columns])
        return np.square(d.ravel() - design @ np.linalg.lstsq(design, d.ravel(), rcond=None)[0]).sum()

    residual = unexplained(of_seeds, of_images)
    squares = (unexplained(of_images) - residual) / 3, (unexplained(of_seeds) - residual) / 14, residual / 42
    found = paired_difference(d, zeros_like(d))
    assert found.seed_sd**2 == pytest.approx((squares[0] - squares[2]) / 15)
    assert found.image_sd**2 == pytest.approx((squares[1] - squares[2]) / 4)
    assert found.residual_sd**2 == pytest.approx(squares[2])


@pytest.mark.parametrize("S", [2, 3, 5])
@pytest.mark.parametrize("shift", [0.1, 0.5, 2.0])
def test_the_interval_at_one_minus_the_p_value_ends_at_zero(S, shift):
    d, _ = simulate(np.random.default_rng(S), S=S, seed_sd=0.2)
    p_value = paired_difference(d + shift, zeros_like(d)).p_value
    assert 1e-5 < p_value < 0.999
    found = paired_difference(d + shift, zeros_like(d), level=1 - p_value, resamples=int(11 / p_value))
    assert np.abs(found.interval).min() < 1e-9


@pytest.mark.parametrize("shift", [0.0, 1e-9, 30.0, 1e9, -1e9])
def test_p_values_of_tiny_and_huge_differences(shift):
    d, _ = simulate(np.random.default_rng(0), S=3)
    d = d - d.mean()
    p_value = paired_difference(d + shift, zeros_like(d)).p_value
    assert (p_value > 1 - 1e-6) if abs(shift) < 1e-6 else (0 <= p_value < 0.01)


def test_the_interval_is_never_narrower_than_that_of_the_seeds_as_they_are():
    rng = np.random.default_rng(0)
    for _ in range(100):
        d, _ = simulate(rng, S=2, residual_sd=2)
        found = paired_difference(d, zeros_like(d), resamples=200)
        half = stats.t.isf(0.025, 199) * found.image_standard_error
        assert found.interval[1] - found.mean_difference >= half * (1 - 1e-12)
        assert found.standard_error >= found.image_standard_error * (1 - 1e-12)


def test_the_image_interval_is_a_bootstrap_t_by_hand():
    """Resamples drawn and studentised one by one; the quantile's Monte Carlo error is 2 / sqrt(resamples) standard
    errors, of both: 4 of them are allowed. Student's quantile is off by more."""
    rng = np.random.default_rng(0)
    d = rng.lognormal(0, 1.2, 30)
    found = paired_difference(d, zeros_like(d), resamples=20_000)
    drawn = rng.choice(d, (20_000, 30))
    t = np.abs(drawn.mean(1) - d.mean()) / (drawn.std(1, ddof=1) / 30**0.5)
    half, student = (q * found.image_standard_error for q in (np.quantile(t, 0.95), stats.t.isf(0.025, 29)))
    low, high = found.image_interval
    slack = 4 * 2**0.5 * 2 / 20_000**0.5 * found.image_standard_error
    assert low + high == pytest.approx(2 * d.mean())
    assert high - d.mean() == pytest.approx(half, abs=slack)
    assert high - d.mean() - student > slack


def test_of_two_images_the_image_interval_is_students():
    """Any resample of both has no error, any of one no spread: they say nothing."""
    found = paired_difference([1.0, 2.0], [0.0, 0.0])
    half = stats.t.isf(0.025, 1) * 0.5
    assert found.image_interval == pytest.approx((1.5 - half, 1.5 + half))


# Simulated truths


@pytest.mark.parametrize("images", ["normal", "lognormal"])
@pytest.mark.parametrize(
    ("S", "seed_sd"), [(1, 0), (2, 0), (2, 0.1), (2, 1), (3, 0), (3, 0.1), (3, 1), (5, 0), (5, 0.1), (5, 1)]
)
def test_intervals_cover_the_truth(S, seed_sd, images):
    """The image interval covers the mean of the seeds at hand, the other one that of all seeds.

    With two seeds that do not differ the latter covers up to 99.3 % by quadrature (98.7 % here): 99.5 % are allowed.
    """
    rng = np.random.default_rng(2)
    drawn = [simulate(rng, S=S, seed_sd=seed_sd, images=images) for _ in range(600)]
    # One set of resampled images for all: each interval is what a call of its own returns, as of the first is checked.
    here = image_intervals(np.stack([d.mean(0) for d, _ in drawn], 1), LEVEL, 2000, seed=0)
    over_seeds = here if S == 1 else [CrossedEffects.of(d).interval(1 - LEVEL) for d, _ in drawn]
    first = paired_difference(drawn[0][0], zeros_like(drawn[0][0]), level=LEVEL, resamples=2000)
    assert np.allclose([first.image_interval, first.interval], [here[0], over_seeds[0]], rtol=1e-9, atol=1e-9)
    image = np.mean([low <= of_seeds <= high for (low, high), (_, of_seeds) in zip(here, drawn, strict=True)])
    assert 0.90 <= image <= 0.99
    assert 0.90 <= np.mean([low <= 0 <= high for low, high in over_seeds]) <= (0.995 if S == 2 else 0.99)


def test_two_seeds_that_make_up_nine_tenths_of_the_variance():
    """Where an interval of Satterthwaite's covers 87 %; 4 standard errors below 95 % are allowed."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        # The mean's variance is seed_sd^2 / 2 of seeds and 1 / 200 of images.
        d, _ = simulate(rng, S=2, seed_sd=0.09**0.5, residual_sd=0.01)
        low, high = CrossedEffects.of(d).interval(0.05)
        covered += low <= 0 <= high
    assert covered / 1000 > 0.95 - 4 * (0.95 * 0.05 / 1000) ** 0.5


@pytest.mark.parametrize(("S", "seed_sd"), [(1, 0), (2, 0.3), (3, 0), (3, 0.3)])
def test_no_two_of_the_same_are_told_apart_more_often_than_stated(S, seed_sd):
    """Three that are equal and one that is better: at most 5 % of families may hold a false difference, and 4 standard
    errors of that share. Simultaneous intervals all hold the truth as often."""
    rng, repetitions, told_apart, missed = np.random.default_rng(4), 400, 0, 0
    truth = {"a": 0.0, "b": 0.0, "c": 0.0, "better": 50.0}
    for _ in range(repetitions):
        image = rng.normal(-90, 10, 100)
        values = {name: image + mean + simulate(rng, S=S, N=100, seed_sd=seed_sd)[0] for name, mean in truth.items()}
        found = compare_all(values, resamples=200)
        told_apart += any(pair.p_value < 0.05 for pair in found.comparisons if truth[pair.first] == truth[pair.second])
        missed += not all(
            pair.interval[0] <= truth[pair.first] - truth[pair.second] <= pair.interval[1] for pair in found.comparisons
        )
    slack = 4 * (0.05 * 0.95 / repetitions) ** 0.5
    assert told_apart / repetitions <= 0.05 + slack
    assert missed / repetitions <= 0.05 + slack


def standardized(rng, law, *shape):
    """Draws of mean 0 and variance 1."""
    if law == "normal":
        return rng.normal(size=shape)
    return (rng.lognormal(0, 1, shape) - np.exp(0.5)) / ((np.e - 1) * np.e) ** 0.5


SPREADS = {"equal": np.ones(5), "unequal": np.geomspace(3**-0.5, 3**0.5, 5), "two groups": np.array([1.0, 3, 1, 3, 1])}
"""Standard deviations over seeds of five configurations; the largest is three times the smallest, or as large."""


def coverage(S, spread, law, *, grids, N=100, seed=0):
    """Shares of pairs whose intervals, each for itself, hold the difference over all seeds, and that of the seeds at
    hand; share of grids whose corrected intervals all hold the former. Configurations do not differ."""
    rng, C = np.random.default_rng(seed), 5
    all_seeds, these_runs, together = [], [], []
    for _ in range(grids):
        of_seeds = 0.3 * SPREADS[spread][:, None] * standardized(rng, law, C, S)
        image = rng.normal(-90, 10, N) + 0.5 * np.linspace(0.5, 1.5, C)[:, None] * standardized(rng, law, C, N)
        values = of_seeds[:, :, None] + image[:, None] + 0.5 * standardized(rng, law, C, S, N)
        found = compare_all({str(c): values[c] for c in range(C)}, resamples=200)
        for pair in found.comparisons:
            here = of_seeds[int(pair.first)].mean() - of_seeds[int(pair.second)].mean()
            low, high = pair.difference.interval
            all_seeds.append(low <= 0 <= high)
            low, high = pair.difference.image_interval
            these_runs.append(low <= here <= high)
        together.append(all(pair.interval[0] <= 0 <= pair.interval[1] for pair in found.comparisons))
    return np.mean(all_seeds), np.mean(these_runs), np.mean(together)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["normal", "lognormal"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("S", [2, 3, 5])
def test_both_intervals_of_a_grid_cover_what_they_say(S, spread, law):
    """At a nominal 95 %, over 1000 grids of five configurations; on average over pairs."""
    all_seeds, these_runs, together = coverage(S, spread, law, grids=1000)
    assert 0.92 <= all_seeds <= 0.97
    assert 0.92 <= these_runs <= 0.97
    assert together >= 0.92


@pytest.mark.parametrize(("S", "spread", "law"), [(2, "equal", "normal"), (3, "unequal", "lognormal")])
def test_both_intervals_of_a_few_grids_cover_what_they_say(S, spread, law):
    """100 grids of ten pairs, whose coverage varies by 1 % at most: 4 of it are allowed."""
    all_seeds, these_runs, _ = coverage(S, spread, law, grids=100)
    assert 0.91 <= all_seeds <= 0.99
    assert 0.91 <= these_runs <= 0.99


def test_a_real_effect_is_found():
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, _ = simulate(rng, S=3, seed_sd=0.05)
        values = {"good": d + 2, "bad": zeros_like(d), "as bad": simulate(rng, S=3, seed_sd=0.05)[0]}
        found = compare_all(values, resamples=200)
        assert found.best == ("good",)
        assert all(row.interval[1] < 0 and row.p_value < 0.05 for row in found.rows[1:])


def test_ten_configurations_of_two_seeds_are_told_apart():
    """Alone, a pair of two seeds has one degree of freedom: corrected for 45 pairs, 573 standard errors."""
    rng = np.random.default_rng(0)
    values = {f"{c}": simulate(rng, S=2, N=500, seed_sd=0.1)[0] + c for c in range(10)}
    found = compare_all(values)
    assert (found.seed_df, found.prior_df) == (9, np.inf)
    assert sum(pair.p_value < 0.05 for pair in found.comparisons) >= 40
    assert max(high - low for low, high in (pair.interval for pair in found.comparisons)) < 2
    alone = paired_difference(values["0"], values["9"], level=1 - 0.05 / 45, resamples=10_000)
    assert alone.interval[1] - alone.interval[0] > 20
    assert "2 seeds, whose spread is pooled over 10 configurations (9 degrees of freedom)" in str(found)


def test_a_restless_configuration_is_not_pooled_away():
    rng = np.random.default_rng(0)
    values = {f"{c}": simulate(rng, S=5, seed_sd=5 if c == 0 else 0.05)[0] for c in range(10)}
    found = compare_all(values)
    assert found.seed_df < 36
    assert "5 seeds, whose spreads differ and are shrunk towards that of 10 configurations" in str(found)
    widths = {
        (pair.first, pair.second): pair.difference.interval[1] - pair.difference.interval[0]
        for pair in found.comparisons
    }
    restless = [width for pair, width in widths.items() if "0" in pair]
    assert min(restless) > 3 * max(width for pair, width in widths.items() if "0" not in pair)


@pytest.mark.parametrize("S", [2, 3])
def test_of_two_configurations_it_is_their_paired_difference(four, S):
    two = {name: four[name][:S] for name in "ab"}
    (pair,) = compare_all(two).comparisons
    direct = paired_difference(two[pair.first], two[pair.second])
    assert numbers(pair.difference) == pytest.approx(numbers(direct), rel=1e-9)
    assert pair.interval == pytest.approx(direct.interval, rel=1e-9)


def test_with_one_seed_both_intervals_of_a_pair_are_the_same(four):
    found = compare_all({name: value[0] for name, value in four.items()})
    for pair in found.comparisons:
        assert pair.interval == pytest.approx(pair.image_interval, rel=1e-12)
    assert (found.seed_df, found.prior_df) == (0, 0)
    assert "one seed, which says nothing of others; corrected" in str(found)
    assert "% interval" not in str(found)


# The ranking


def test_pairs_are_those_of_paired_difference_but_for_the_spread_of_seeds(four):
    """Corrected by Holm and Bonferroni; the mean square of seeds is made of the variances that all four give."""
    found = compare_all(four, level=0.9)
    assert [row.name for row in found.rows] == sorted(four, key=lambda name: -four[name].mean())
    assert len(found.comparisons) == 6
    alone = {(pair.first, pair.second): pair.difference for pair in found.comparisons}
    spread = seed_spread(np.stack([value.mean(1) for value in four.values()]))
    assert (found.seed_df, found.prior_df) == pytest.approx((spread.df, spread.prior_df))
    variance = dict(zip(four, spread.variances, strict=True))

    def crossed(first, second):
        seeds = 50 * (variance[first] + variance[second])
        return replace(CrossedEffects.of(four[first] - four[second]), seed=seeds, seed_df=spread.df)

    for (first, second), difference in alone.items():
        direct = paired_difference(four[first], four[second], level=0.9)
        for name in ("mean_difference", "image_standard_error", "image_interval", "image_sd", "residual_sd"):
            assert getattr(difference, name) == pytest.approx(getattr(direct, name), rel=1e-9)
        assert difference.interval == pytest.approx(crossed(first, second).interval(0.1), rel=1e-9)
        assert difference.seed_df == spread.df
    p_values = np.array([difference.p_value for difference in alone.values()])
    steps, largest = np.sort(p_values) * np.arange(6, 0, -1), np.argsort(p_values)
    for at, which in enumerate(largest):
        pair = found.comparisons[which]
        assert pair.p_value == pytest.approx(min(1, steps[: at + 1].max()))
        assert pair.interval == pytest.approx(crossed(pair.first, pair.second).interval(0.1 / 6))
        half = stats.t.isf(0.1 / 12, 49) * pair.difference.image_standard_error
        centre = pair.difference.mean_difference
        assert pair.image_interval == pytest.approx((centre - half, centre + half))


def test_rows_hold_means_differences_to_the_best_and_ranks(four):
    found = compare_all(four)
    best = found.rows[0].name
    pairs = {(pair.first, pair.second): pair for pair in found.comparisons}
    assert (found.rows[0].rank, found.rows[0].to_best, found.rows[0].p_value) == (1, 0, 1)
    for at, row in enumerate(found.rows):
        assert row.mean == pytest.approx(four[row.name].mean())
        better = [pairs[other.name, row.name].p_value < 0.05 for other in found.rows[:at]]
        assert row.rank == 1 + sum(better)
        if at:
            assert row.to_best == pytest.approx(four[row.name].mean() - four[best].mean())
            low, high = pairs[best, row.name].interval
            assert row.interval == (-high, -low)
            low, high = pairs[best, row.name].image_interval
            assert row.image_interval == (-high, -low)
            assert row.p_value == pairs[best, row.name].p_value
    assert found.best == tuple(row.name for row in found.rows if row.rank == 1)


def test_of_gaps_the_lower_ones_are_better(four):
    higher, lower = compare_all(four), compare_all({n: -v for n, v in four.items()}, higher_is_better=False)
    assert [(row.rank, row.name, -row.to_best) for row in lower.rows] == [
        (row.rank, row.name, row.to_best) for row in higher.rows
    ]
    assert [pair.p_value for pair in lower.comparisons] == [pair.p_value for pair in higher.comparisons]
    assert all(row.to_best > 0 for row in lower.rows[1:])


def test_the_table():
    rng = np.random.default_rng(0)
    d = rng.normal(0, 1, (3, 500))
    values = {"mean field": d - 91.5, "iaf": d + rng.normal(0, 1, (3, 500)) - 90, "a copy": d - 91.5}
    values["iaf"][0, 7] = np.nan
    lines = str(compare_all(values)).split("\n")
    assert lines[0] == "rank  name            nats  to the best       95 % interval  95 % of these runs        p"
    assert lines[1].startswith("   1  iaf         -90.")
    assert lines[2].startswith("   2  a copy      -91.")
    assert lines[3].startswith("   2  mean field  -91.")
    assert len({len(line) for line in (lines[0], *lines[2:4])}) == 1
    assert lines[4].startswith("499 images (1 left out); 3 seeds, whose spread")
    assert lines[4].endswith("freedom); corrected for 3 pairs (intervals by Bonferroni, p by Holm)")


def test_a_difference_in_words():
    found = PairedDifference(-0.5, 0.1, (-0.7, -0.3), 0.1, 2.0, 1.0, 0.123, (-0.9, -0.1), 0.02, 0.95, 3, 990, 10, 2)
    assert str(found) == (
        "-0.50 nats (s.e. 0.12, 95 % interval -0.90 to -0.10, of these runs -0.70 to -0.30, p = 0.02; 990 images, 10 "
        "left out; 3 seeds)"
    )
    other = found.reversed()
    assert (other.mean_difference, other.interval, other.image_interval) == (0.5, (0.1, 0.9), (0.3, 0.7))
    assert other.reversed() == found


# Degenerate cases, invariances, flagged images


@pytest.mark.parametrize("S", [1, 2, 3])
def test_identical_configurations_do_not_differ(S):
    a = np.random.default_rng(0).normal(-90, 10, (S, 20))
    found = paired_difference(a, a.copy())
    assert (found.mean_difference, found.standard_error, found.p_value) == (0, 0, 1)
    assert found.interval == found.image_interval == (0, 0)
    ranking = compare_all({"x": a, "y": a.copy(), "z": a.copy()})
    assert ranking.best == ("x", "y", "z")
    assert [row.interval for row in ranking.rows] == [(0, 0)] * 3
    assert [row.p_value for row in ranking.rows] == [1, 1, 1]
    assert all(pair.difference.image_interval == (0, 0) for pair in ranking.comparisons)


@pytest.mark.parametrize("S", [1, 2, 3])
def test_a_difference_that_never_varies_is_certain(S):
    a = np.arange(20.0 * S).reshape(S, 20)
    found = paired_difference(a + 1, a)
    assert (found.mean_difference, found.standard_error, found.p_value) == (1, 0, 0)
    assert found.interval == found.image_interval == (1, 1)


def test_the_order_of_images_seeds_and_configurations_does_not_matter(four):
    """But for the bootstrap's Monte Carlo error, where images are in another order."""
    rng = np.random.default_rng(0)
    images, seeds = rng.permutation(50), rng.permutation(3)
    found = paired_difference(four["a"], four["b"])
    other = paired_difference(four["a"][seeds][:, images], four["b"][seeds][:, images])
    of_images = found.image_interval, other.image_interval
    # 4 Monte Carlo errors, as above, of both.
    assert np.abs(np.subtract(*of_images)).max() < 4 * 2**0.5 * 3.7 / 2000**0.5 * found.image_standard_error
    assert numbers(other, bootstrap=False) == pytest.approx(numbers(found, bootstrap=False), rel=1e-9)

    swapped = paired_difference(four["b"], four["a"])
    assert swapped.mean_difference == -found.mean_difference
    assert swapped.p_value == found.p_value
    assert swapped.interval == (-found.interval[1], -found.interval[0])
    assert swapped.image_interval == pytest.approx((-found.image_interval[1], -found.image_interval[0]), rel=1e-9)

    backwards = compare_all(dict(reversed(four.items())))
    assert backwards.rows == compare_all(four).rows


def test_it_is_the_same_each_time_and_another_seed_changes_the_image_interval_only(four):
    a = four["a"] + np.random.default_rng(0).lognormal(0, 1.5, 50)
    first, again, other = (paired_difference(a, four["b"], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.image_interval != other.image_interval
    assert (numbers(first, bootstrap=False) == numbers(other, bootstrap=False)).all()
    assert compare_all(four) == compare_all(four)


def test_flagged_images_are_left_out_and_counted(four):
    a, b = four["a"].copy(), four["b"].copy()
    a[0, 3], b[2, 3], b[1, 10], a[1, 20] = np.nan, np.nan, np.nan, -np.inf
    kept = np.delete(np.arange(50), [3, 10, 20])
    found, without = paired_difference(a, b), paired_difference(a[:, kept], b[:, kept])
    assert vars(found) == vars(without) | {"num_left_out": 3}
    assert "47 images, 3 left out" in str(found)
    ranking = compare_all(four | {"a": a, "b": b})
    assert ranking.rows == compare_all({name: value[:, kept] for name, value in four.items()}).rows
    assert (ranking.num_images, ranking.num_left_out) == (47, 3)


def test_everything_is_float64(four):
    """float32 inputs are taken as the numbers that they are."""
    a, b = (four[name].astype(np.float32) for name in "ab")
    found = paired_difference(a, torch.from_numpy(b))
    assert found == paired_difference(a.astype(np.float64), b.astype(np.float64))


def test_ten_thousand_images_take_little_memory():
    """The drawn images alone would be 160 megabytes at once."""
    d = np.random.default_rng(0).normal(0, 1, (3, 10_000))
    paired_difference(d[:, :2], zeros_like(d)[:, :2])
    tracemalloc.start()
    try:
        paired_difference(d, zeros_like(d))
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


# Errors


def ones(*shape):
    return np.ones(shape)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (
            ones(3, 100),
            ones(3, 90),
            {},
            "same images, .*got 100 and 90",
        ),
        (
            ones(3, 100),
            ones(2, 100),
            {},
            "as many seeds, .*got 3 and 2",
        ),
        (
            ones(3, 100),
            ones(100),
            {},
            "as many seeds, .*got 3 and 1",
        ),
        (
            ones(2, 3),
            [[1, np.nan, 1], [np.nan, np.inf, np.nan]],
            {},
            "no image of 3 .* 0, .*'b', row 1",
        ),
        (
            ones(2, 3),
            [[1, np.nan, 1], [1, 1, np.nan]],
            {},
            "at least 2 images .*got 1, and 2",
        ),
        (
            ones(1),
            ones(1),
            {},
            "at least 2 images .*got 1, and 0",
        ),
        (
            ones(2, 3, 4),
            ones(2, 3, 4),
            {},
            r"'a' must be .*shape \(2, 3, 4\)",
        ),
        (
            ones(3),
            ones(0),
            {},
            r"'b' must be .*shape \(0,\)",
        ),
        (
            ones(3),
            ones(3),
            {"level": 95},
            r"level must lie .*got 95\. .*0\.95",
        ),
        (
            ones(3),
            ones(3),
            {"level": 0.0},
            r"level must lie .*; got 0\.0\.",
        ),
        (
            ones(3),
            ones(3),
            {"resamples": 199},
            "resamples must be at least 200",
        ),
    ],
)
def test_errors_say_what_to_do(a, b, options, message):
    with pytest.raises(ValueError, match=f"^paired_difference: .*{message}"):
        paired_difference(a, b, **options)


def test_errors_of_a_ranking_name_it_and_the_configuration():
    with pytest.raises(ValueError, match=r"^compare_all: values .*; got 1"):
        compare_all({"iaf": ones(3, 10)})
    with pytest.raises(ValueError, match=r"^compare_all: 'iaf' and 'planar'"):
        compare_all({"iaf": ones(3, 10), "mean field": ones(3, 10), "planar": ones(2, 10)})
