"""The continuous Bernoulli against quadrature, at every size of the logit."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from pyro_vae.models.likelihoods.continuous_bernoulli import SERIES_BELOW, ContinuousBernoulli
from pyro_vae.testing import LikelihoodSuite

EDGES = [SERIES_BELOW * (1 - 1e-9), SERIES_BELOW, 0.2, 1e-3, 1e-9]
LOGITS = [0.0, *EDGES, *(-edge for edge in EDGES), 2.0, -2.0, 17.0, -17.0, 40.0, -40.0, 300.0, -300.0]


def moments(logit):
    """Mass, mean and variance of exp(logit x) on [0, 1], of which the largest value is 1."""
    shift = max(logit, 0.0)

    def integral(f):
        edges = [0.0, *np.geomspace(1e-3, 0.5, 6), *(1 - np.geomspace(0.3, 1e-3, 6)), 1.0]
        return sum(integrate.quad(f, a, b, epsabs=0, epsrel=1e-13)[0] for a, b in pairwise(edges))

    mass = integral(lambda x: np.exp(logit * x - shift))
    mean = integral(lambda x: x * np.exp(logit * x - shift)) / mass
    return np.log(mass) + shift, mean, integral(lambda x: (x - mean) ** 2 * np.exp(logit * x - shift)) / mass


@pytest.mark.parametrize("logit", LOGITS)
def test_normaliser_mean_and_variance_by_quadrature(logit):
    log_mass, mean, variance = moments(logit)
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert_close(p.log_prob(x), logit * x - log_mass, rtol=1e-12, atol=1e-12)
    assert_close(p.mean.item(), mean, rtol=1e-11, atol=0)
    assert_close(p.variance.item(), variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("logit", LOGITS)
def test_single_precision_is_as_good_as_its_rounding(logit):
    x = torch.linspace(0, 1, 5)
    found = ContinuousBernoulli(torch.tensor(logit)).log_prob(x)
    exact = ContinuousBernoulli(torch.tensor(logit).double()).log_prob(x.double())
    assert ((found - exact).abs() <= 8 * torch.finfo(torch.float32).eps * max(1.0, abs(logit))).all()


@pytest.mark.parametrize("logit", LOGITS)
def test_gradient_is_x_less_the_mean(logit):
    eta, x = torch.tensor(logit, dtype=torch.float64, requires_grad=True), torch.tensor(0.3).double()
    p = ContinuousBernoulli(eta)
    p.log_prob(x).backward()
    assert_close(eta.grad, (x - p.mean).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("logit", [0.0, 0.1, -3.0, 3.0, 40.0])
def test_draws_follow_the_distribution_function(logit):
    """The share of draws below each of seven quantiles, within 4 standard errors."""
    n, levels = 100_000, torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    points = torch.log1p(levels * np.expm1(logit)) / logit if logit else levels
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    share = (p.sample((n, 1)) <= points).double().mean(0)
    assert ((share - levels).abs() < 4 * (levels * (1 - levels) / n).sqrt()).all()


def test_values_outside_its_support_are_refused():
    with pytest.raises(ValueError, match="support"):
        ContinuousBernoulli(torch.zeros(2), validate_args=True).log_prob(torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="support"):
        ContinuousBernoulli(torch.zeros(2), validate_args=True).expand((3, 2)).log_prob(torch.tensor([0.5, 1.5]))


class TestContract(LikelihoodSuite):
    part = "continuous_bernoulli"
