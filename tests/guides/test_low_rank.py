"""The diagonal-plus-low-rank Gaussian guide is exact where the posterior has that form."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import LowRankGuide
from pyro_vae.testing import GuideSuite


def exact_guide(model):
    """Any covariance less its smallest eigenvalue on the diagonal has rank d - 1."""
    x_dim, latent_dim = model.loadings.shape
    rank = latent_dim - 1
    encoder = nn.Linear(x_dim, (2 + rank) * latent_dim).double()
    origin = model.posterior(torch.zeros(1, x_dim).double())
    unit = model.posterior(torch.eye(x_dim).double())
    eigenvalues, vectors = torch.linalg.eigh(origin.covariance_matrix[0])
    factor = vectors[:, 1:] * (eigenvalues[1:] - eigenvalues[0]).sqrt()
    with torch.no_grad():
        encoder.weight.zero_()[:latent_dim] = (unit.mean - origin.mean).T
        encoder.bias[:latent_dim] = origin.mean[0]
        encoder.bias[latent_dim : 2 * latent_dim] = 0.5 * eigenvalues[0].log()
        encoder.bias[2 * latent_dim :] = factor.flatten()
    return LowRankGuide((x_dim,), latent_dim, rank=rank, encoder=encoder)


def test_every_weight_equals_the_evidence(linear_gaussian):
    case = linear_gaussian
    x = case.data(7)
    with torch.no_grad():
        found = log_weights(case.model, exact_guide(case.model), x, num_samples=3)
    assert_close(found, case.evidence(x).expand(3, 7), rtol=1e-8, atol=1e-8)


def test_its_covariance_is_diagonal_plus_the_factors_square():
    guide = LowRankGuide((3,), 4, (5,), rank=2).double()
    x = torch.randn(6, 3).double()
    loc, log_scale, factor = guide.features(x)
    factor = factor.reshape(6, 4, 2)
    covariance = (2 * log_scale).exp().diag_embed() + factor @ factor.mT
    q = torch.distributions.MultivariateNormal(loc, covariance)
    z = torch.randn(5, 6, 4).double()
    assert_close(guide.posterior(x).log_prob(z), q.log_prob(z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_out_of_range_is_told_so(rank):
    with pytest.raises(ValueError, match=f"rank must be from 1 .*; got {rank}"):
        LowRankGuide((3,), 4, rank=rank)


class TestContract(GuideSuite):
    part = "low_rank(rank=2)"
