"""Means of draws and their errors, against their formulas."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation import MonteCarloMean


def test_the_error_is_that_of_a_mean_of_independent_means():
    draws = torch.randn(7, 30, dtype=torch.float64) * torch.arange(1.0, 31).double()
    found = MonteCarloMean.of_draws(draws)
    assert found.mean == pytest.approx(draws.mean().item())
    assert found.standard_error == pytest.approx(math.sqrt((draws.var(0) / 7).sum().item()) / 30)
    assert found.data_standard_error == pytest.approx(draws.mean(0).std().item() / math.sqrt(30))
    assert_close(found.sample_variance, draws.var(0))


def test_data_with_a_nan_are_left_out():
    draws = torch.randn(7, 30, dtype=torch.float64)
    spoiled = draws.clone()
    spoiled[3, 29] = math.nan
    found, expected = MonteCarloMean.of_draws(spoiled), MonteCarloMean.of_draws(draws[:, :29])
    assert found.per_datum[29].isnan()
    assert found.mean == pytest.approx(expected.mean)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.data_standard_error == pytest.approx(expected.data_standard_error)
    assert str(found) == str(expected)
