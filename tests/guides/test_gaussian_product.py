"""The product with a diagonal Gaussian: its log-density is the sum of the factors', less a constant."""

import math

import pytest
import torch
from pyro import distributions as dist
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal
from torch.testing import assert_close

from pyro_vae.distributions.flow import FlowDistribution
from pyro_vae.guides.full_rank import CholeskyNormal
from pyro_vae.guides.gaussian_product import gaussian_product
from pyro_vae.guides.mixture import DiagonalNormalMixture
from pyro_vae.guides.planar import PlanarGuide

N, DIM = 7, 3


def normal(*shape):
    return Normal(torch.randn(*shape).double(), torch.rand(*shape).double() + 0.1)


def lower():
    return torch.randn(N, DIM, DIM).double().tril(-1) + (torch.rand(N, DIM).double() + 0.2).diag_embed()


def diagonal():
    q = normal(N, DIM)
    return dist.Normal(q.loc, q.scale).to_event(1)


def low_rank(rank=2):
    loc, diagonal = torch.randn(N, DIM).double(), torch.rand(N, DIM).double() + 0.1
    return LowRankMultivariateNormal(loc, torch.randn(N, DIM, rank).double(), diagonal)


def full():
    return MultivariateNormal(torch.randn(N, DIM).double(), scale_tril=lower())


def remembered_full():
    return CholeskyNormal(torch.randn(N, DIM).double(), scale_tril=lower())


def mixture():
    q = normal(N, 4, DIM)
    return DiagonalNormalMixture(torch.randn(N, 4).double(), q.loc, q.scale)


FAMILIES = [diagonal, low_rank, full, remembered_full, mixture]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_normalized_product(family):
    """Its density is normalized by itself, so that a difference that is the same at every z proves it."""
    q, p = family(), normal(N, DIM)
    merged = gaussian_product(q, p)
    z = torch.randn(50, N, DIM).double()
    less = merged.log_prob(z) - q.log_prob(z) - p.log_prob(z).sum(-1)
    assert_close(less, less[:1].expand(50, N), rtol=1e-9, atol=1e-9)
    assert type(merged) is type(q) or isinstance(merged, type(q))
    assert merged.batch_shape == (N,)


def test_the_overlap_of_two_diagonal_ones():
    q, p = diagonal(), normal(N, DIM)
    overlap = Normal(p.loc, (q.variance + p.variance).sqrt()).log_prob(q.mean)
    z = torch.randn(N, DIM).double()
    expected = q.log_prob(z) + (p.log_prob(z) - overlap).sum(-1)
    assert_close(gaussian_product(q, p).log_prob(z), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_have_the_moments_of_the_product(family):
    """Mean and variance of 4000 draws within 5 standard errors of those by q's draws, weighted by p's density."""
    q, p = family(), Normal(torch.zeros(N, DIM).double(), 2.0)
    z, proposed = gaussian_product(q, p).rsample((4000,)), q.rsample((200_000,))
    weights = p.log_prob(proposed).sum(-1).softmax(0).unsqueeze(-1)
    for power in (1, 2):
        expected = (weights * proposed**power).sum(0)
        squares = (weights.square() * (proposed**power - expected).square()).sum(0)
        errors = (squares + (z**power).var(0) / 4000).sqrt()
        assert ((z**power).mean(0) - expected).div(errors).abs().max() < 5


@pytest.mark.parametrize("family", FAMILIES)
def test_under_a_wide_path_it_is_the_estimate_and_under_a_narrow_one_the_path(family):
    q, z = family(), torch.randn(N, DIM).double()
    wide = gaussian_product(q, Normal(torch.zeros(N, DIM).double(), 1e7))
    assert_close(wide.log_prob(z), q.log_prob(z), rtol=1e-6, atol=1e-6)
    loc = torch.randn(N, DIM).double()
    narrow = gaussian_product(q, Normal(loc, 1e-6))
    assert_close(narrow.mean, loc, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("log_scale", "weight"), [(-60.0, 1.0), (60.0, 0.0)])
def test_a_merge_with_a_far_larger_precision_is_that_factor(log_scale, weight):
    """In float32, where such a precision or its inverse overflows."""
    loc, log_scales = torch.full((2,), 3.0), torch.full((2,), log_scale, requires_grad=True)
    q = dist.Normal(loc, log_scales.exp()).to_event(1)
    merged = gaussian_product(q, Normal(torch.zeros(2), 2.0)).base_dist
    assert_close(merged.mean, weight * loc)
    assert_close(merged.scale, torch.full((2,), math.exp(log_scale) if weight else 2.0))
    (gradient,) = torch.autograd.grad(merged.scale.log().sum(), log_scales)
    assert_close(gradient, torch.full((2,), weight))


def test_a_flow_keeps_its_steps_and_has_its_base_merged():
    q = PlanarGuide((4,), DIM, (5,), num_flows=2).double().posterior(torch.rand(N, 4).double())
    p = normal(N, DIM)
    merged = gaussian_product(q, p)
    assert isinstance(merged, FlowDistribution)
    assert merged.steps == q.steps
    base = gaussian_product(dist.Normal(q.loc, q.scale).to_event(1), p)
    assert_close((merged.loc, merged.scale), (base.mean, base.stddev))


@pytest.mark.parametrize(
    ("q", "name"),
    [
        (dist.StudentT(5.0, torch.zeros(N, DIM)).to_event(1), "StudentT"),
        (dist.Dirichlet(torch.ones(N, DIM)), "Dirichlet"),
    ],
)
def test_another_law_is_refused(q, name):
    with pytest.raises(ValueError, match=f"{name} is none of them"):
        gaussian_product(q, normal(N, DIM))
