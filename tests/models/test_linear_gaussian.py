"""The oracle itself: its evidence and posterior against the joint Gaussian, conditioned by hand."""

import torch
from torch.testing import assert_close

from pyro_vae.models import LinearGaussian
from pyro_vae.testing import ModelSuite

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def blocks(model):
    """Mean and covariance of (z, x) jointly, in blocks."""
    loadings, noise = model.loadings.detach(), (2 * model.log_scale.detach()).exp()
    d, k = loadings.shape
    eye = torch.eye(d, dtype=loadings.dtype)
    return torch.eye(k, dtype=loadings.dtype), loadings.T, loadings @ loadings.T + noise * eye


def test_the_evidence_is_the_marginal(make_linear_gaussian):
    model = make_linear_gaussian(6, 2, 0.4).model
    _, _, s_xx = blocks(model)
    x = torch.randn(9, 6, dtype=torch.float64)
    by_hand = torch.distributions.MultivariateNormal(model.bias, s_xx)
    assert_close(model.evidence().log_prob(x), by_hand.log_prob(x), **EXACT)


def test_the_posterior_is_the_conditional(make_linear_gaussian):
    """Schur: E[z | x] = S_zx S_xx^-1 (x - b), Cov = S_zz - S_zx S_xx^-1 S_xz; the code inverts M instead."""
    model = make_linear_gaussian(6, 2, 0.4).model
    s_zz, s_zx, s_xx = blocks(model)
    x = torch.randn(9, 6, dtype=torch.float64)
    q = model.posterior(x)
    gain = s_zx @ torch.linalg.inv(s_xx)
    assert_close(q.mean, (x - model.bias) @ gain.T, **EXACT)
    assert_close(q.covariance_matrix, (s_zz - gain @ s_zx.T).expand(9, 2, 2), **EXACT)


def test_bayes(linear_gaussian):
    """p(z) p(x | z) = p(x) p(z | x) at any z."""
    model = linear_gaussian.model
    x = linear_gaussian.data(5)
    z = torch.randn(5, 3, dtype=torch.float64)
    normal = torch.distributions.Normal
    left = normal(0.0, 1.0).log_prob(z).sum(-1)
    left = left + normal(z @ model.loadings.T + model.bias, model.log_scale.exp()).log_prob(x).sum(-1)
    assert_close(left, model.evidence().log_prob(x) + model.posterior(x).log_prob(z), **EXACT)


def test_from_values_keeps_the_dtype_and_the_numbers():
    loadings, bias = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    model = LinearGaussian.from_values(loadings, bias, 0.3)
    assert torch.equal(model.loadings, loadings)
    assert torch.equal(model.bias, bias)
    assert_close(model.log_scale.exp().item(), 0.3, rtol=1e-12, atol=0)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_the_score_is_zero_on_average_at_the_truth(linear_gaussian):
    """The gradient of the mean evidence over the model's own 50000 data, within 5 standard errors of 50 blocks."""
    x = linear_gaussian.data(50_000)
    model = linear_gaussian.model.requires_grad_(True)
    scores = []
    for block in x.split(1000):
        gradient = torch.autograd.grad(model.evidence().log_prob(block).mean(), list(model.parameters()))
        scores.append(torch.cat([g.flatten() for g in gradient]))
    scores = torch.stack(scores)
    error = scores.std(0) / len(scores) ** 0.5
    assert (scores.mean(0).abs() < 5 * error).all()


class TestContract(ModelSuite):
    part = "linear_gaussian"
    x_shape = (6,)
