"""The test of uniform ranks against enumeration of all of them, and the band against ArviZ's."""

import itertools
import math
import warnings

import numpy as np
import pytest

from pyro_vae.statistics.uniformity import holm, uniformity_band, uniformity_p_value


@pytest.mark.parametrize(("n", "num_ranks"), [(4, 4), (7, 2), (3, 6), (1, 5)])
def test_the_p_value_is_the_probability_of_itself_or_less(n, num_ranks):
    """Over all num_ranks^n samples."""
    p_values = np.array(
        [uniformity_p_value(np.array(ranks), num_ranks) for ranks in itertools.product(range(num_ranks), repeat=n)]
    )
    assert len(np.unique(p_values.round(9))) > 1
    for p_value in np.unique(p_values):
        assert (p_values <= p_value + 1e-9).mean() == pytest.approx(p_value, abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_band_holds_at_least_its_level_of_all_samples_and_no_more_than_it_must(level):
    n, num_ranks = 6, 4
    low, high = uniformity_band(n, num_ranks, level)
    samples = np.array(list(itertools.product(range(num_ranks), repeat=n)))
    below = (samples[:, :, None] < np.arange(1, num_ranks)).sum(1)
    inside = ((below >= low) & (below <= high)).all(1)
    assert inside.mean() >= level
    p_values = np.array([uniformity_p_value(ranks, num_ranks) for ranks in samples])
    assert (inside == (p_values > 1 - level)).all()


def test_the_band_is_arvizs_up_to_a_count():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from arviz.stats.ecdf_utils import ecdf_confidence_band
        except ImportError:
            pytest.skip("ArviZ 1.x has bands of simulated samples only")
    at = np.arange(1, 20) / 20
    theirs = ecdf_confidence_band(200, at, at, prob=0.95)
    for ours, other in zip(uniformity_band(200, 20), theirs, strict=True):
        assert np.abs(ours - 200 * other).max() <= 1


def test_ranks_far_from_uniform_have_tiny_p_values():
    ranks = np.random.default_rng(0).integers(0, 100, 1000)
    assert uniformity_p_value(ranks, 100) > 0.01
    assert 0 < uniformity_p_value(ranks // 2, 100) < 1e-100
    assert 0 < uniformity_p_value(np.concatenate([ranks[:500] // 5, 99 - ranks[500:] // 5]), 100) < 1e-50


def test_holm_adjusts_in_steps():
    found = holm(np.array([0.04, 0.001, 0.3, 0.03]))
    assert found.tolist() == pytest.approx([0.09, 0.004, 0.3, 0.09])
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]
    assert math.isclose(holm(np.array([0.2]))[0], 0.2)
