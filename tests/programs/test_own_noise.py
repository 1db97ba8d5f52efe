"""Values that follow a law's parameters, against the gradient of reparameterized draws, which makes the same values."""

import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import transforms
from torch.testing import assert_close

from pyro_vae.models.priors import FlowPrior, GaussianMixturePrior
from pyro_vae.programs.own_noise import at_own_noise

DOUBLE = torch.float64


def leaf(*values):
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


LAWS = {
    "normal": lambda a, b: dist.Normal(a, b.exp()),
    "laplace": lambda a, b: dist.Laplace(a, b.exp()),
    "cauchy": lambda a, b: dist.Cauchy(a, b.exp()),
    "gumbel": lambda a, b: dist.Gumbel(a, b.exp()),
    "logistic": lambda a, b: dist.Logistic(a, b.exp()),
    "soft laplace": lambda a, b: dist.SoftLaplace(a, b.exp()),
    "student-t": lambda a, b: dist.StudentT(torch.tensor(4.0, dtype=DOUBLE), a, b.exp()),
    "half-normal": lambda a, b: dist.HalfNormal((a + b).exp()),
    "half-cauchy": lambda a, b: dist.HalfCauchy((a + b).exp()),
    "log-normal": lambda a, b: dist.LogNormal(a, b.exp()),
    "affine of a laplace": lambda a, b: dist.TransformedDistribution(
        dist.Laplace(a, torch.ones(3, dtype=DOUBLE)), [transforms.AffineTransform(b, a.exp())]
    ),
    "logit-normal": lambda a, b: dist.TransformedDistribution(dist.Normal(a, b.exp()), [transforms.SigmoidTransform()]),
    "multivariate": lambda a, b: dist.MultivariateNormal(
        a, scale_tril=b.exp().diag() + torch.ones(3, 3, dtype=DOUBLE).tril(-1) * b
    ),
    "wrapped": lambda a, b: (
        dist.Normal(a, b.exp()).expand([4, 3]).mask(torch.tensor([True, False, True])).to_event(1).mask(False)
    ),
}


@pytest.mark.parametrize("make", LAWS.values(), ids=LAWS.keys())
def test_it_has_value_and_gradient_of_a_draw(make):
    a, b = leaf(0.3, -0.4, 1.2), leaf(-0.2, 0.1, 0.4)
    law = make(a, b)
    draw = law.rsample()
    moved = at_own_noise(law, draw)
    assert_close(moved, draw, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(draw)
    found, exact = (torch.autograd.grad((weight * z).sum(), [a, b], retain_graph=True) for z in (moved, draw))
    assert_close(found, exact, rtol=1e-8, atol=1e-8)


def test_a_low_rank_normal_is_the_multivariate_one():
    loc, factor, diagonal = leaf(0.3, -0.4), leaf(0.5, 0.9), leaf(0.6, 0.8)
    law = dist.LowRankMultivariateNormal(loc, factor.unsqueeze(-1), diagonal)
    whole = dist.MultivariateNormal(loc, factor.outer(factor) + diagonal.diag())
    value = torch.tensor([0.7, 0.1], dtype=DOUBLE)
    found = [torch.autograd.grad(at_own_noise(p, value).sum(), [loc, factor, diagonal]) for p in (law, whole)]
    assert_close(*found)


@pytest.mark.parametrize("num_flows", [1, 3])
def test_a_flow_goes_through_its_inverse(num_flows):
    prior = FlowPrior(3, num_flows=num_flows, hidden_dims=(4,)).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    law = prior()
    draw = law.rsample((5,))
    moved = at_own_noise(law.expand([5]), draw)
    assert_close(moved, draw, rtol=1e-9, atol=1e-9)
    found, exact = (torch.autograd.grad(z.square().sum(), list(prior.parameters())) for z in (moved, draw))
    assert_close(found, exact, rtol=1e-7, atol=1e-7)


def test_a_flow_of_pyros_is_not_answered_out_of_its_cache():
    """Scoring a value leaves it, and what it was made from, in the transform's cache."""
    flow = transforms.spline(2, count_bins=4).double()
    law = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)).to_event(1), [flow]
    )
    value = torch.tensor([0.4, -0.7], dtype=DOUBLE)
    law.log_prob(value)
    gradients = torch.autograd.grad(at_own_noise(law, value).sum(), list(flow.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


@pytest.mark.parametrize(
    "law",
    [
        GaussianMixturePrior(2, 3)(),
        dist.Gamma(leaf(2.0), leaf(1.0)),
        dist.StudentT(leaf(4.0), leaf(0.0), leaf(1.0)),
        dist.TransformedDistribution(dist.Normal(leaf(0.0, 1.0), leaf(1.0, 1.0)).to_event(1), [transforms.planar(2)]),
        dist.Weibull(leaf(2.0), leaf(1.0)),
        type("Cut", (dist.Normal,), {})(leaf(0.0), leaf(1.0)),
    ],
    ids=["mixture", "gamma", "learned degrees of freedom", "planar flow", "weibull", "a subclass"],
)
def test_other_laws_have_none(law):
    assert at_own_noise(law, torch.tensor([0.5, 0.5], dtype=DOUBLE)) is None
