"""The schedules: closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation.annealing.temperatures import SCHEDULES, temperatures


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_schedule_rises_from_0_to_1_exactly(schedule, count):
    found = temperatures(schedule, count)
    assert found.shape == (count + 1,)
    assert found.dtype == torch.float64
    assert found[0] == 0
    assert found[-1] == 1
    assert (found.diff() > 0).all()
    assert_close(found, 1 - found.flip(0), rtol=0, atol=1e-15)


def test_the_linear_steps_are_equal_and_the_sigmoids_are_those_of_the_logistic_curve():
    assert_close(temperatures("linear", 8), torch.arange(9).double() / 8, rtol=0, atol=0)

    def curve(step):
        return 1 / (1 + math.exp(-4 * (2 * step / 8 - 1)))

    expected = [(curve(step) - curve(0)) / (curve(8) - curve(0)) for step in range(9)]
    assert_close(temperatures("sigmoid", 8), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-16)
