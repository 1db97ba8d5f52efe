"""Logs of mean weights: against all weights at once, far from 0, with what is not finite."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation.evidence.log_mean import LogMean


@pytest.mark.parametrize("level", [0.0, -900.0, 900.0])
def test_weights_that_come_in_parts_give_what_all_at_once_give(level):
    log_weights = level + 3 * torch.randn(60, 4, 2).double()
    found = LogMean()
    for part in log_weights.split([1, 20, 39]):
        found.add(part)
    weights = (log_weights - level).exp()
    assert found.count == 60
    assert_close(found.value, level + weights.mean(0).log())
    assert_close(found.standard_error, weights.std(0) / weights.mean(0) / 60**0.5)
    assert_close(found.ess, weights.sum(0).square() / weights.square().sum(0))


def test_one_sample_has_a_value_and_no_error():
    found = LogMean.of(torch.tensor([[2.5, -1.0]]))
    assert_close(found.value, torch.tensor([2.5, -1.0]).double())
    assert found.standard_error.isnan().all()


def test_what_is_not_finite_stays_with_its_own_law():
    log_weights = torch.zeros(5, 4)
    log_weights[2] = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    log_weights[:, 3] = -math.inf
    value = LogMean.of(log_weights).value
    assert value[0].isnan()
    assert value[1] == math.inf
    assert value[2] == pytest.approx(math.log(4 / 5))
    assert value[3] == -math.inf
