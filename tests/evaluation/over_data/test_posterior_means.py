"""Posterior means and the noise in them."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch.testing import assert_close

from pyro_vae.evaluation.over_data.posterior_means import posterior_means
from pyro_vae.guides import MeanFieldGuide


def without_mean(law):
    """The same law, as one that does not know its mean."""
    return dist.TransformedDistribution(law, [dist.transforms.AffineTransform(0.0, 1.0)])


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
            pyro.sample("w", without_mean(dist.Normal(x, 0.3)).to_event(1))

    x = torch.randn(2000, 1, dtype=torch.float64)
    found = posterior_means("here", guide, x, "w", 5)
    # The variance of a variance of five draws is 2 sigma^4 / 4.
    assert abs(found.noise.mean().item() - 0.018) < 4 * 0.018 * (2 / 4 / 2000) ** 0.5
    error = (found.mean - x).square()
    assert abs(error.mean().item() - 0.018) < 4 * error.std().item() / 2000**0.5


def test_bad_input_is_named():
    guide = MeanFieldGuide((4,), 2, hidden_dims=(5,))
    with pytest.raises(ValueError, match="here: x: there are none"):
        posterior_means("here", guide, torch.zeros(0, 4), "z", 5)
    with pytest.raises(ValueError, match="MeanFieldGuide: x must have"):
        posterior_means("here", guide, torch.zeros(3, 5), "z", 5)


def test_the_law_of_the_first_site_has_the_mean_where_no_noise_enters():
    """No sample is needed, whatever the sites and plates are called, and wherever the batch is."""
    x = torch.randn(7, 3, dtype=torch.float64)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("latent", dist.Gamma(x.exp(), 2.0))

    found = posterior_means("here", guide, x, None, 1)
    assert_close(found.mean, x.exp() / 2)
    assert (found.noise == 0).all()
    assert found.units == ("latent[0]", "latent[1]", "latent[2]")


@pytest.mark.parametrize("noise", ["site", "torch"])
def test_a_mean_that_depends_on_noise_is_averaged_over_it(noise):
    """E[z | x] = E[E[z | x, w]] = x: 4000 data, their mean error within 4 s.e. of 0, and the noise as it is."""

    def guide(x):
        with pyro.plate("data", len(x)):
            shift = dist.Normal(torch.zeros_like(x[:, 0]), 1.0)
            w = pyro.sample("w", shift, infer={"is_auxiliary": True}) if noise == "site" else shift.sample()
            pyro.sample("z", dist.Normal(x[:, 0] + w, 3.0))

    x = torch.randn(4000, 1, dtype=torch.float64)
    found = posterior_means("here", guide, x, None, 10)
    assert found.units == ("z[0]",)
    error = (found.mean - x)[:, 0]
    assert abs(error.mean().item()) < 4 * 0.1**0.5 / 4000**0.5
    # Not (1 + 9) / 10: the law's own mean is used, given w. The relative s.e. of a variance of 10 is (2/9)^0.5.
    assert abs(found.noise.mean().item() - 0.1) < 4 * 0.1 * (2 / 9 / 4000) ** 0.5


def test_a_direction_is_no_mean():
    """The mean of a von Mises law's angle is 0 at kappa = 0 about any direction; `mean` says the direction."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.VonMises(x[:, 0], 1e-3))

    found = posterior_means("here", guide, torch.full((500, 1), 2.0), None, 50)
    assert abs(found.mean.mean().item()) < 4 * (3.1416**2 / 3 / 25000) ** 0.5


def test_masked_data_are_no_part_of_a_units_variance():
    there = torch.tensor([[True, True], [True, False], [True, True], [True, False], [True, True]])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).mask(there).to_event(1))

    def by_a_plate(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("dims", 2, dim=-1), poutine.mask(mask=there):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(5, 2, dtype=torch.float64)
    found = posterior_means("here", by_a_plate, x, None, 2).variance_over_data()
    assert_close(found, torch.stack([x[:, 0].var(), x[there[:, 1], 1].var()]))
    # A mask inside an event belongs to the law's density; its elements are one datum's.
    assert posterior_means("here", guide, x, None, 2).variance_over_data().shape == (2,)
