"""The Gaussian mixture by its formula, by quadrature, and its draws against its density."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.priors import GaussianMixturePrior
from pyro_vae.testing import PriorSuite


def mixture(latent_dim, num_components=3):
    prior = GaussianMixturePrior(latent_dim, num_components).double()
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_scale.normal_().mul_(0.3)
    return prior.requires_grad_(False)


def test_log_density_by_formula():
    prior, z = mixture(4), torch.randn(7, 4).double()
    weight = prior.logits.softmax(0)
    density = sum(
        weight[k] * torch.distributions.Normal(prior.loc[k], prior.log_scale[k].exp()).log_prob(z).sum(-1).exp()
        for k in range(3)
    )
    assert_close(prior().log_prob(z), density.log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_it_integrates_to_one(latent_dim):
    """A trapezoidal sum of a smooth density that vanishes at the ends is exact to rounding."""
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim)
    total = mixture(latent_dim)().log_prob(z).exp().sum() * (axis[1] - axis[0]) ** latent_dim
    assert_close(total.item(), 1.0, rtol=1e-10, atol=0)


def test_draws_follow_the_density():
    """The share of draws below each of nine points, within 4 standard errors of the integral up to there."""
    prior, n = mixture(1), 100_000
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    components = torch.distributions.Normal(prior.loc[:, 0], prior.log_scale[:, 0].exp())
    exact = (prior.logits.softmax(0) * components.cdf(points[:, None])).sum(-1)
    share = (prior().sample((n,)) <= points).double().mean(0)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()


def test_no_components_are_refused():
    with pytest.raises(ValueError, match="num_components must be at least"):
        GaussianMixturePrior(4, 0)


class TestContract(PriorSuite):
    part = "mixture(num_components=3)"
