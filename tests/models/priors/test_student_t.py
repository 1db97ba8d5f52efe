"""The Student-t product against scipy's density and distribution function."""

import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.models.priors import StudentTPrior
from pyro_vae.testing import PriorSuite


def prior_1d():
    prior = StudentTPrior(1, df=3.5).double()
    with torch.no_grad():
        prior.log_df_minus_2.fill_(math.log(1.5))
        prior.loc.fill_(0.4)
        prior.log_scale.fill_(0.3)
    return prior.requires_grad_(False), stats.t(3.5, 0.4, prior.log_scale.exp().item())


def test_log_density_is_scipys():
    prior, reference = prior_1d()
    z = torch.linspace(-30, 30, 101, dtype=torch.float64)
    expected = torch.from_numpy(reference.logpdf(z.numpy()))
    assert_close(prior().log_prob(z[:, None]), expected, rtol=1e-10, atol=1e-10)


def test_a_product_over_the_dims():
    prior, z = StudentTPrior(3, df=3.0).double(), torch.randn(5, 3).double()
    expected = torch.from_numpy(stats.t(3.0).logpdf(z.numpy())).sum(-1)
    assert_close(prior().log_prob(z).detach(), expected, rtol=1e-10, atol=1e-10)


def test_draws_follow_the_density():
    """The share of draws below each of nine points, within 4 standard errors of the distribution function."""
    prior, reference = prior_1d()
    n, points = 100_000, torch.linspace(-4, 4, 9, dtype=torch.float64)
    exact = torch.from_numpy(reference.cdf(points.numpy()))
    share = (prior().sample((n,)) <= points).double().mean(0)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()


def test_an_infinite_variance_is_refused():
    with pytest.raises(ValueError, match="df must be above 2"):
        StudentTPrior(4, df=2.0)


class TestContract(PriorSuite):
    part = "student_t(df=7.0)"
