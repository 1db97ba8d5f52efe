"""The full-rank Gaussian guide is exact wherever the posterior is Gaussian."""

import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import FullRankGuide


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


def test_one_latent_dim_has_nothing_below_the_diagonal():
    q = FullRankGuide((3,), 1, (4,)).posterior(torch.randn(2, 3))
    assert q.scale_tril.shape == (2, 1, 1)
    assert (q.scale_tril > 0).all()
