"""Differences and rankings against t-tests, an analysis by hand, SciPy's bootstrap, and simulated truths."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.comparison.statistics import PairedDifference, compare_all, paired_difference

LEVEL = 0.95


def zeros_like(d):
    return np.zeros(np.shape(d))


def numbers(found, *, bootstrap=True):
    """All of a difference's numbers in a row; without those that depend on the order of images."""
    named = {name: value for name, value in vars(found).items() if bootstrap or name != "image_interval"}
    return np.hstack(list(named.values()))


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


def test_the_image_interval_is_scipys():
    """Each end's Monte Carlo error is 3.7 / sqrt(resamples) standard errors, of its tail and of the bias: 4 of it, of
    both. The plain percentile interval is off by more."""
    d = np.random.default_rng(0).lognormal(0, 1, 50)
    found = paired_difference(d, zeros_like(d), resamples=20_000)
    slack = 4 * 2**0.5 * 3.7 / 20_000**0.5 * found.image_standard_error
    theirs, percentile = (
        stats.bootstrap((d,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1), batch=1000)
        for method in ("BCa", "percentile")
    )
    assert np.abs(np.subtract(found.image_interval, theirs.confidence_interval)).max() < slack
    assert np.abs(np.subtract(found.image_interval, percentile.confidence_interval)).max() > slack


# Simulated truths


@pytest.mark.parametrize("images", ["normal", "lognormal"])
@pytest.mark.parametrize(
    ("S", "seed_sd"), [(1, 0), (2, 0), (2, 0.1), (2, 1), (3, 0), (3, 0.1), (3, 1), (5, 0), (5, 0.1), (5, 1)]
)
def test_intervals_cover_the_truth(S, seed_sd, images):
    """The image interval covers the mean of the seeds at hand, the other one that of all seeds.

    With two seeds that do not differ the latter covers up to 99.3 % by quadrature (98.7 % here): 99.5 % are allowed.
    """
    rng, repetitions, image, both = np.random.default_rng(2), 600, 0, 0
    for _ in range(repetitions):
        d, of_seeds = simulate(rng, S=S, seed_sd=seed_sd, images=images)
        found = paired_difference(d, zeros_like(d), level=LEVEL, resamples=400)
        image += found.image_interval[0] <= of_seeds <= found.image_interval[1]
        both += found.interval[0] <= 0 <= found.interval[1]
    assert 0.90 <= image / repetitions <= 0.99
    assert 0.90 <= both / repetitions <= (0.995 if S == 2 else 0.99)


def test_two_seeds_that_make_up_nine_tenths_of_the_variance():
    """Where an interval of Satterthwaite's covers 87 %; 4 standard errors below 95 % are allowed."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        # The mean's variance is seed_sd^2 / 2 of seeds and 1 / 200 of images.
        d, _ = simulate(rng, S=2, seed_sd=0.09**0.5, residual_sd=0.01)
        low, high = paired_difference(d, zeros_like(d), resamples=200).interval
        covered += low <= 0 <= high
    assert covered / 1000 > 0.95 - 4 * (0.95 * 0.05 / 1000) ** 0.5


@pytest.mark.parametrize(
    ("S", "seed_sd", "pool_seeds"), [(1, 0, False), (2, 0.3, False), (3, 0, False), (3, 0.3, False), (3, 0.3, True)]
)
def test_no_two_of_the_same_are_told_apart_more_often_than_stated(S, seed_sd, pool_seeds):
    """Three that are equal and one that is better: at most 5 % of families may hold a false difference, and 4 standard
    errors of that share. Simultaneous intervals all hold the truth as often."""
    rng, repetitions, told_apart, missed = np.random.default_rng(4), 400, 0, 0
    truth = {"a": 0.0, "b": 0.0, "c": 0.0, "better": 50.0}
    for _ in range(repetitions):
        image = rng.normal(-90, 10, 100)
        values = {name: image + mean + simulate(rng, S=S, N=100, seed_sd=seed_sd)[0] for name, mean in truth.items()}
        found = compare_all(values, pool_seeds=pool_seeds, resamples=200)
        told_apart += any(pair.p_value < 0.05 for pair in found.comparisons if truth[pair.first] == truth[pair.second])
        missed += not all(
            pair.interval[0] <= truth[pair.first] - truth[pair.second] <= pair.interval[1] for pair in found.comparisons
        )
    slack = 4 * (0.05 * 0.95 / repetitions) ** 0.5
    assert told_apart / repetitions <= 0.05 + slack
    assert missed / repetitions <= 0.05 + slack


def test_a_real_effect_is_found():
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, _ = simulate(rng, S=3, seed_sd=0.05)
        values = {"good": d + 2, "bad": zeros_like(d), "as bad": simulate(rng, S=3, seed_sd=0.05)[0]}
        found = compare_all(values, resamples=200)
        assert found.best == ("good",)
        assert all(row.interval[1] < 0 and row.p_value < 0.05 for row in found.rows[1:])


def test_pooled_seeds_tell_apart_what_three_seeds_alone_cannot():
    rng = np.random.default_rng(0)
    values = {f"{c}": simulate(rng, S=3, N=1000, seed_sd=0.1)[0] + c / 2 for c in range(8)}
    alone, pooled = compare_all(values), compare_all(values, pool_seeds=True)
    told_apart = [sum(pair.p_value < 0.05 for pair in found.comparisons) for found in (alone, pooled)]
    assert told_apart[0] <= 14
    assert told_apart[1] == 28
    assert "whose spread is taken to be the same for all" in str(pooled)
    # All pairs have the same mean square of seeds, on which the rest of the standard error is small.
    errors = [pair.difference.standard_error for pair in pooled.comparisons]
    assert max(errors) < 1.1 * min(errors)


def test_of_two_configurations_pooling_changes_nothing(four):
    two = {name: four[name] for name in "ab"}
    assert compare_all(two, pool_seeds=True).comparisons == compare_all(two).comparisons


def test_with_one_seed_there_is_nothing_to_pool(four):
    one = {name: value[0] for name, value in four.items()}
    assert compare_all(one, pool_seeds=True).rows == compare_all(one).rows
    assert "one seed, which says nothing of others; corrected" in str(compare_all(one, pool_seeds=True))


# The ranking


def test_pairs_are_those_of_paired_difference_corrected_by_holm_and_bonferroni(four):
    found = compare_all(four, level=0.9)
    assert [row.name for row in found.rows] == sorted(four, key=lambda name: -four[name].mean())
    assert len(found.comparisons) == 6
    alone = {(pair.first, pair.second): pair.difference for pair in found.comparisons}
    for (first, second), difference in alone.items():
        direct = paired_difference(four[first], four[second], level=0.9)
        assert numbers(difference) == pytest.approx(numbers(direct), rel=1e-9)
    p_values = np.array([difference.p_value for difference in alone.values()])
    steps, largest = np.sort(p_values) * np.arange(6, 0, -1), np.argsort(p_values)
    for at, which in enumerate(largest):
        pair = found.comparisons[which]
        assert pair.p_value == pytest.approx(min(1, steps[: at + 1].max()))
        corrected = paired_difference(four[pair.first], four[pair.second], level=1 - 0.1 / 6)
        assert pair.interval == pytest.approx(corrected.interval)


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
    assert lines[0] == "rank  name           nats  to the best     95 % interval        p"
    assert lines[1].startswith("   1  iaf         -90.")
    assert lines[2].startswith("   2  a copy      -91.")
    assert lines[3].startswith("   2  mean field  -91.")
    assert len({len(line) for line in (lines[0], *lines[2:4])}) == 1
    assert lines[4] == "499 images (1 left out); 3 seeds; corrected for 3 pairs (intervals by Bonferroni, p by Holm)"


def test_a_difference_in_words():
    found = PairedDifference(-0.5, 0.1, (-0.7, -0.3), 0.1, 2.0, 1.0, 0.123, (-0.9, -0.1), 0.02, 0.95, 3, 990, 10)
    assert str(found) == (
        "-0.50 nats (s.e. 0.12, 95 % interval -0.90 to -0.10, p = 0.02; 990 images, 10 left out; 3 seeds)"
    )


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
    first, again, other = (paired_difference(four["a"], four["b"], seed=seed) for seed in (0, 0, 1))
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
            "paired_difference: 'a' and 'b' must be measured on the same images, in the same order; got 100 and 90 "
            "images. Evaluate both on the same test set; a flagged image is NaN, not missing.",
        ),
        (
            ones(3, 100),
            ones(2, 100),
            {},
            "paired_difference: 'a' and 'b' must have as many seeds, as they are paired by position; got 3 and 2. "
            "Train the missing ones, or pass the first 2 rows of both.",
        ),
        (
            ones(3, 100),
            ones(100),
            {},
            "paired_difference: 'a' and 'b' must have as many seeds, as they are paired by position; got 3 and 1. "
            "Train the missing ones, or pass the first 1 rows of both.",
        ),
        (
            ones(2, 3),
            [[1, np.nan, 1], [np.nan, np.inf, np.nan]],
            {},
            "paired_difference: no image of 3 is finite for all configurations and seeds. The fewest, 0, are finite "
            "for 'b', row 1: look there first.",
        ),
        (
            ones(2, 3),
            [[1, np.nan, 1], [1, 1, np.nan]],
            {},
            "paired_difference: at least 2 images are needed for a standard error; got 1, and 2 that are not finite "
            "for all configurations and seeds.",
        ),
        (
            ones(1),
            ones(1),
            {},
            "paired_difference: at least 2 images are needed for a standard error; got 1, and 0 that are not finite "
            "for all configurations and seeds.",
        ),
        (
            ones(2, 3, 4),
            ones(2, 3, 4),
            {},
            "paired_difference: 'a' must be (num_seeds, num_images), or (num_images,) for one seed; got shape "
            "(2, 3, 4).",
        ),
        (
            ones(3),
            ones(0),
            {},
            "paired_difference: 'b' must be (num_seeds, num_images), or (num_images,) for one seed; got shape (0,).",
        ),
        (
            ones(3),
            ones(3),
            {"level": 95},
            "paired_difference: `level` must lie between 0 and 1; got 95. Is it a percentage? 95 % is 0.95.",
        ),
        (
            ones(3),
            ones(3),
            {"level": 0.0},
            "paired_difference: `level` must lie between 0 and 1; got 0.0. Is it a percentage? 95 % is 0.95.",
        ),
        (
            ones(3),
            ones(3),
            {"resamples": 199},
            "paired_difference: `resamples` must be at least 200 for level 0.95, so that 5 lie beyond each end; got "
            "199.",
        ),
    ],
)
def test_errors_say_what_to_do(a, b, options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        paired_difference(a, b, **options)
    assert str(caught.value) == message


def test_errors_of_a_ranking_name_it_and_the_configuration():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        compare_all({"iaf": ones(3, 10)})
    assert str(caught.value) == (
        "compare_all: `values` must hold at least 2 configurations by name; got 1. Seeds of one configuration are the "
        "rows of its array."
    )
    with pytest.raises(ValueError, match=r"^compare_all: 'iaf' and 'planar' must have as many seeds"):
        compare_all({"iaf": ones(3, 10), "mean field": ones(3, 10), "planar": ones(2, 10)})
