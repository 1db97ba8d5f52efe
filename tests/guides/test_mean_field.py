"""The diagonal Gaussian guide against the linear-Gaussian model, where its best and its gap are closed."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae import elbo_terms, log_weights
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.testing import GuideSuite


def best_guide(model):
    """The mean-field guide of least KL(q || p(z | x)): its mean, and 1 / the diagonal of its precision."""
    x_dim, latent_dim = model.loadings.shape
    variance = (2 * model.log_scale).exp()
    precision = model.loadings.T @ model.loadings / variance + torch.eye(latent_dim).double()
    gain = torch.linalg.solve(precision, model.loadings.T / variance)
    encoder = nn.Linear(x_dim, 2 * latent_dim).double()
    with torch.no_grad():
        encoder.weight.zero_()[:latent_dim] = gain
        encoder.bias[:latent_dim] = -gain @ model.bias
        encoder.bias[latent_dim:] = -0.5 * precision.diagonal().log()
    return MeanFieldGuide((x_dim,), latent_dim, encoder=encoder), precision


def test_orthogonal_loadings_every_weight_equals_the_evidence(make_linear_gaussian):
    """The posterior is diagonal, so the guide is exact."""
    case = make_linear_gaussian(orthogonal=True)
    guide, _ = best_guide(case.model)
    x = case.data(7)
    with torch.no_grad():
        found = log_weights(case.model, guide, x, num_samples=3)
    assert_close(found, case.evidence(x).expand(3, 7), rtol=1e-8, atol=1e-8)


def test_correlated_loadings_leave_the_closed_gap(linear_gaussian):
    r"""KL(q || p(z | x)) = 1/2 (sum_i log P_ii - log det P) for posterior precision P, at every x.

    The ELBO's Monte Carlo mean over 50 data and 4000 samples is held to 4 of its standard errors.
    """
    case = linear_gaussian
    guide, precision = best_guide(case.model)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    x = case.data(50)
    found = elbo_terms(case.model, guide, x, num_samples=4000, seed=0).elbo
    difference = case.evidence(x).mean().item() - found.mean - gap
    assert abs(difference) < 4 * found.standard_error
    assert gap > 10 * found.standard_error  # the check can tell the gap from none
    # The same by torch's own closed divergence, exactly.
    q, p = guide.posterior(x), case.model.posterior(x)
    q = torch.distributions.MultivariateNormal(q.mean, q.variance.diag_embed())
    p = torch.distributions.MultivariateNormal(p.mean, p.covariance_matrix)
    kl = torch.distributions.kl_divergence(q, p).detach()
    assert_close(kl, torch.full((50,), gap).double(), rtol=1e-8, atol=1e-8)


def test_no_other_mean_field_guide_does_better(linear_gaussian):
    """The ELBO's exact gradient in the guide's own terms vanishes at the best guide."""
    case = linear_gaussian
    guide, precision = best_guide(case.model)
    x = case.data(5)
    q, p = guide.posterior(x), case.model.posterior(x)
    loc, log_scale = q.mean.detach().requires_grad_(), q.variance.sqrt().log().detach().requires_grad_()
    delta = loc - p.mean
    kl = 0.5 * ((2 * log_scale).exp() * precision.diagonal()).sum() - log_scale.sum()
    kl = kl + 0.5 * torch.einsum("bi,ij,bj->", delta, precision, delta)
    for gradient in torch.autograd.grad(kl, (loc, log_scale)):
        assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)


def test_location_comes_before_log_scale():
    encoder = nn.Linear(2, 4)
    nn.init.zeros_(encoder.weight)
    with torch.no_grad():
        encoder.bias.copy_(torch.tensor([1.0, 2.0, math.log(3.0), math.log(4.0)]))
    q = MeanFieldGuide((2,), 2, encoder=encoder).posterior(torch.zeros(1, 2))
    assert_close(q.mean, torch.tensor([[1.0, 2.0]]))
    assert_close(q.variance.sqrt(), torch.tensor([[3.0, 4.0]]))


def test_an_encoder_with_the_wrong_number_of_features_is_told_so():
    guide = MeanFieldGuide((1, 2, 3), latent_dim=50, encoder=nn.Linear(6, 50))
    with pytest.raises(ValueError, match=r"= 100 features; .*\(4, 50\)"):
        guide.posterior(torch.zeros(4, 1, 2, 3))


class TestContract(GuideSuite):
    part = "mean_field"
