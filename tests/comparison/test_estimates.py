"""Means over seeds and images, and their errors, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from made_up import made_up_result

from pyro_vae.comparison import Cell, Configuration
from pyro_vae.comparison.estimates import BOUND_GAP, estimate, numbers


def configuration(tmp_path, **values: list[list[float]]) -> Configuration:
    """A seed a row."""
    results = []
    for seed in range(len(next(iter(values.values())))):
        result = made_up_result(Cell(seed=seed), tmp_path)
        rows = {name: torch.tensor(rows[seed], dtype=torch.float64) for name, rows in values.items()}
        per_datum = {result.quantities[name].place: row for name, row in rows.items()}
        results.append(replace(result, per_datum=per_datum))
    return Configuration("by hand", results)


def test_a_mean_and_its_errors(tmp_path):
    found = estimate(configuration(tmp_path, elbo=[[1.0, 3.0], [3.0, 9.0]]), "elbo")
    assert (found.mean, found.num_seeds, found.num_images, found.num_left_out) == (4.0, 2, 2, 0)
    # Means of seeds 2 and 6; means of images 2 and 6; a Monte Carlo error of 0.03 for each seed.
    assert found.spread == pytest.approx(math.sqrt(8))
    assert found.data == pytest.approx(math.sqrt(8) / math.sqrt(2))
    assert found.monte_carlo == pytest.approx(0.03 / math.sqrt(2))
    assert found.standard_error == pytest.approx(math.hypot(found.data, found.spread / math.sqrt(2)))


def test_one_seed_has_no_spread(tmp_path):
    found = estimate(configuration(tmp_path, elbo=[[1.0, 3.0]]), "elbo")
    assert math.isnan(found.spread)
    assert found.standard_error == found.data == pytest.approx(1.0)


def test_an_image_that_is_not_finite_for_a_seed_is_left_out_of_all(tmp_path):
    found = estimate(configuration(tmp_path, inference_gap=[[1.0, math.nan, 3.0], [1.0, 100.0, 5.0]]), "inference_gap")
    assert (found.mean, found.num_images, found.num_left_out) == (2.5, 2, 1)


def test_without_a_finite_image_there_is_no_mean(tmp_path):
    assert estimate(configuration(tmp_path, rate=[[math.nan, math.nan]]), "rate") is None


def test_what_a_seed_has_not_measured_has_no_mean(tmp_path):
    one, other = (made_up_result(Cell(seed=seed), tmp_path, num_gaps=6 * seed) for seed in (0, 1))
    assert estimate(Configuration("both", [one, other]), "inference_gap") is None
    assert estimate(Configuration("none", []), "elbo") is None


def test_seeds_with_other_images_have_a_mean_but_no_data_error(tmp_path):
    both = configuration(tmp_path, elbo=[[1.0, 3.0], [4.0, 6.0]])
    other = replace(both.results[1], evaluation={**both.results[1].evaluation, "test_images": "others"})
    found = estimate(replace(both, results=[both.results[0], other]), "elbo")
    assert found.mean == 3.5
    assert math.isnan(found.data)
    assert found.standard_error == pytest.approx(found.spread / math.sqrt(2))


def test_a_share_whose_monte_carlo_error_is_not_known_has_none(tmp_path):
    found = estimate(configuration(tmp_path, khat_above=[[0.0, 1.0, 0.0, 1.0, math.nan]]), "khat_above")
    assert (found.mean, found.num_images, found.num_left_out) == (0.5, 4, 1)
    assert math.isnan(found.monte_carlo)


def test_khats_that_were_not_computed_are_no_share(tmp_path):
    assert estimate(configuration(tmp_path, khat_above=[[math.nan, math.nan]]), "khat_above") is None


def test_the_gap_of_the_bounds_is_paired_by_image(tmp_path):
    found = estimate(configuration(tmp_path, elbo=[[1.0, 30.0]], log_likelihood=[[2.0, 31.0]]), BOUND_GAP)
    assert (found.mean, found.data) == (1.0, 0.0)
    assert found.monte_carlo == pytest.approx(math.hypot(0.03, 0.01))


def test_another_unit(tmp_path):
    found = estimate(configuration(tmp_path, elbo=[[1.0, 3.0], [3.0, 9.0]]), "elbo")
    scaled = found.times(-2)
    assert scaled.mean == -8.0
    assert scaled.spread == 2 * found.spread
    assert scaled.num_images == 2


def test_numbers_of_cells_that_have_them(tmp_path):
    results = [made_up_result(Cell(seed=seed), tmp_path) for seed in (0, 1)]
    assert numbers(Configuration("two", results), "fit_seconds") == [10.0, 11.0]
    assert numbers(Configuration("two", results), "active_units") == [3, 3]
    assert numbers(Configuration("two", results), "no such") == []
