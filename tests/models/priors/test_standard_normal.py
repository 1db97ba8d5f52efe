"""N(0, I) by its formula."""

import math

import torch
from torch.testing import assert_close

from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.testing import PriorSuite


def test_log_density_by_formula():
    z = torch.randn(7, 3, dtype=torch.float64)
    expected = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    assert_close(StandardNormalPrior(3).double()().log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_it_has_nothing_to_train_or_save():
    prior = StandardNormalPrior(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}


class TestContract(PriorSuite):
    part = "standard_normal"
