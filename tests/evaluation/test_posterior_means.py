"""Posterior means and the noise in them."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.evaluation.posterior_means import posterior_means
from pyro_vae.guides import MeanFieldGuide


def test_a_closed_mean_is_taken_as_it_is():
    guide = MeanFieldGuide((4,), 2, hidden_dims=(5,)).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    found = posterior_means("here", guide, x, "z", 1)
    assert_close(found.mean, guide.posterior(x).mean.detach())
    assert (found.noise == 0).all()
    assert_close(found.variance_over_data(), found.mean.var(0))


def test_a_sampled_mean_says_its_noise():
    """2000 data of one law: the noise is 0.3^2 / 5, and the variance over data is unbiased (4 s.e.)."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(x, 0.3).to_event(1))

    x = torch.randn(2000, 1, dtype=torch.float64)
    found = posterior_means("here", guide, x, "w", 5)
    # The variance of a variance of five draws is 2 sigma^4 / 4.
    assert abs(found.noise.mean().item() - 0.018) < 4 * 0.018 * (2 / 4 / 2000) ** 0.5
    error = (found.mean - x).square()
    assert abs(error.mean().item() - 0.018) < 4 * error.std().item() / 2000**0.5


def test_bad_input_is_named():
    guide = MeanFieldGuide((4,), 2, hidden_dims=(5,))
    with pytest.raises(ValueError, match=r"here: x: there are none \(shape \(0, 4\)\)"):
        posterior_means("here", guide, torch.zeros(0, 4), "z", 5)
    with pytest.raises(ValueError, match=r"MeanFieldGuide: x must have shape \(batch, 4\); got \(3, 5\)"):
        posterior_means("here", guide, torch.zeros(3, 5), "z", 5)
