"""The full-rank Gaussian guide is exact wherever the posterior is Gaussian."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import FullRankGuide
from pyro_vae.testing import GuideSuite


def exact_guide(model):
    """The guide whose encoder gives the posterior of a linear-Gaussian model: linear in x, one covariance."""
    x_dim, latent_dim = model.loadings.shape
    encoder = nn.Linear(x_dim, latent_dim * (latent_dim + 3) // 2).double()
    origin = model.posterior(torch.zeros(1, x_dim).double())
    unit = model.posterior(torch.eye(x_dim).double())
    cholesky = torch.linalg.cholesky(origin.covariance_matrix[0])
    with torch.no_grad():
        encoder.weight.zero_()[:latent_dim] = (unit.mean - origin.mean).T
        encoder.bias[:latent_dim] = origin.mean[0]
        encoder.bias[latent_dim : 2 * latent_dim] = cholesky.diagonal().log()
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        encoder.bias[2 * latent_dim :] = cholesky[rows, columns]
    return FullRankGuide((x_dim,), latent_dim, encoder=encoder)


def test_every_weight_equals_the_evidence(linear_gaussian):
    case = linear_gaussian
    x = case.data(7)
    with torch.no_grad():
        found = log_weights(case.model, exact_guide(case.model), x, num_samples=3)
    assert_close(found, case.evidence(x).expand(3, 7), rtol=1e-8, atol=1e-8)


def test_its_density_is_the_posteriors(linear_gaussian):
    case = linear_gaussian
    x, z = case.data(7), torch.randn(4, 7, case.latent_dim).double()
    found = exact_guide(case.model).posterior(x).log_prob(z)
    assert_close(found, case.model.posterior(x).log_prob(z), rtol=1e-8, atol=1e-8)


def ill_conditioned(dims: int = 50) -> FullRankGuide:
    """A guide whose L has an inverse with elements of about 10^30: a narrow diagonal under wide rows."""
    encoder = nn.Linear(3, dims * (dims + 3) // 2)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias[:dims] = 0
        encoder.bias[dims : 2 * dims] = -3
        encoder.bias[2 * dims :] = 0.5 * torch.randn(dims * (dims - 1) // 2)
    return FullRankGuide((3,), dims, encoder=encoder)


def test_its_own_draws_are_scored_exactly_where_solving_for_the_noise_loses_all_digits():
    q = ill_conditioned().posterior(torch.zeros(7, 3))
    torch.manual_seed(1)
    noise = torch.randn(4, 7, 50).double()
    torch.manual_seed(1)
    z = q.rsample((4,))
    exact = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) + 50 * 3
    assert_close(q.log_prob(z).double(), exact, rtol=1e-5, atol=0)
    off = (q.log_prob(z.clone()).double() - exact).abs()
    assert not (off < 1).any()  # infinite, or wrong by many nats


def test_the_remembered_density_has_the_total_gradient():
    """Well-conditioned and in float64, it is that of solving, by parameters and through z."""
    torch.manual_seed(0)
    guide = FullRankGuide((3,), 4, (5,)).double()
    x = torch.randn(6, 3).double()
    gradients = []
    for scored in (lambda z: z, lambda z: z + 0):
        q = guide.posterior(x)
        torch.manual_seed(2)
        z = q.rsample((5,))
        value = (q.log_prob(scored(z)) * z.square().sum(-1)).sum()
        gradients.append(torch.autograd.grad(value, list(guide.parameters())))
    for ours, solved in zip(*gradients, strict=True):
        assert_close(ours, solved, rtol=1e-9, atol=1e-9)


def test_a_draw_that_is_not_a_number_is_refused_though_remembered():
    q = FullRankGuide((3,), 4, (5,)).posterior(torch.randn(6, 3))
    q._validate_args = True
    q.loc.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(q.rsample())


def test_a_draw_without_gradients_is_scored_with_them():
    q = FullRankGuide((3,), 4, (5,)).posterior(torch.randn(6, 3))
    with torch.no_grad():
        z = q.rsample()
    assert q.log_prob(z).requires_grad
    assert_close(q.log_prob(z), q.log_prob(z.clone()))


def test_one_latent_dim_has_nothing_below_the_diagonal():
    q = FullRankGuide((3,), 1, (4,)).posterior(torch.randn(2, 3))
    assert q.scale_tril.shape == (2, 1, 1)
    assert (q.scale_tril > 0).all()


class TestContract(GuideSuite):
    part = "full_rank"
