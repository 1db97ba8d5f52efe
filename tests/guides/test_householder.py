"""The reflected Gaussian: its Jacobian by autograd, its density in closed form, and a posterior it can match."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import HouseholderGuide
from pyro_vae.guides.householder import ReflectedNormal, reflect
from pyro_vae.testing import GuideSuite


def reflected(batch=(6,), reflections=3, dim=4):
    loc, scale = torch.randn(*batch, dim).double(), torch.rand(*batch, dim).double() + 0.1
    return ReflectedNormal(loc, scale, torch.randn(*batch, reflections, dim).double())


def reflections_of(rotation):
    """Vectors whose reflections, the last one first, make up an orthogonal matrix; zeros where none is needed."""
    vectors = []
    for axis in range(len(rotation)):
        vector = rotation[:, axis] - torch.eye(len(rotation)).double()[axis]
        vectors.append(vector)
        rotation = reflect(rotation.T, vector[None]).T
    assert_close(rotation, torch.eye(len(rotation)).double(), rtol=1e-10, atol=1e-10)
    return torch.stack(vectors[::-1])


def test_volume_is_kept_by_autograd():
    vectors = torch.randn(3, 4).double()
    jacobian = torch.autograd.functional.jacobian(lambda z: reflect(z, vectors), torch.randn(4).double())
    assert_close(jacobian @ jacobian.T, torch.eye(4).double(), rtol=1e-12, atol=1e-12)


def test_density_mean_and_covariance_in_closed_form():
    q = reflected()
    turned = torch.stack([reflect(torch.eye(4).double(), v.expand(4, 3, 4)).T for v in q.vectors])
    covariance = turned @ q.scale.square().diag_embed() @ turned.mT
    exact = MultivariateNormal((turned @ q.loc[..., None])[..., 0], covariance)
    z = torch.randn(5, 6, 4).double()
    assert_close(q.log_prob(z), exact.log_prob(z), rtol=1e-10, atol=1e-10)
    assert_close(q.mean, exact.mean, rtol=1e-12, atol=1e-12)
    assert_close(q.variance, exact.variance, rtol=1e-10, atol=1e-10)
    assert_close(q.covariance_matrix, covariance, rtol=1e-10, atol=1e-10)


def test_draws_have_its_mean_and_covariance():
    """Each entry within 5 standard errors of 200 000 draws."""
    q, n = reflected((), 3, 3), 200_000
    z = q.rsample((n,)) - q.mean
    scale = q.variance.sqrt()
    assert (z.mean(0).abs() < 5 * scale / n**0.5).all()
    spread = (z[:, :, None] * z[:, None, :]).std(0) / n**0.5
    assert ((torch.cov(z.T) - q.covariance_matrix).abs() < 5 * spread).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_vectors_of_any_length_reflect_or_do_nothing(size):
    vectors, z = torch.randn(2, 3) * size, torch.randn(5, 3)
    vectors.requires_grad_()
    found = reflect(z, vectors)
    assert_close(found.norm(dim=-1), z.norm(dim=-1))
    assert torch.equal(found, z) == (size == 0.0)
    found.square().sum().backward()
    assert vectors.grad.isfinite().all()


def test_every_weight_equals_the_evidence(linear_gaussian):
    """With as many reflections as dims, any Gaussian posterior is in the family."""
    case = linear_gaussian
    x_dim, latent_dim = case.model.loadings.shape
    origin = case.model.posterior(torch.zeros(1, x_dim).double())
    unit = case.model.posterior(torch.eye(x_dim).double())
    variances, axes = torch.linalg.eigh(origin.covariance_matrix[0])
    encoder = nn.Linear(x_dim, (2 + latent_dim) * latent_dim).double()
    with torch.no_grad():
        encoder.weight.zero_()[:latent_dim] = axes.T @ (unit.mean - origin.mean).T
        encoder.bias[:latent_dim] = axes.T @ origin.mean[0]
        encoder.bias[latent_dim : 2 * latent_dim] = 0.5 * variances.log()
        encoder.bias[2 * latent_dim :] = reflections_of(axes).flatten()
    guide = HouseholderGuide((x_dim,), latent_dim, num_reflections=latent_dim, encoder=encoder)
    x = case.data(7)
    with torch.no_grad():
        found = log_weights(case.model, guide, x, num_samples=3)
    assert_close(found, case.evidence(x).expand(3, 7), rtol=1e-8, atol=1e-8)


def test_a_wider_batch_is_checked_as_well():
    q = ReflectedNormal(torch.zeros(3), torch.ones(3), torch.ones(2, 3), validate_args=True).expand((5,))
    assert q.rsample().shape == (5, 3)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((5, 3), float("nan")))


def test_no_reflections_are_refused():
    with pytest.raises(ValueError, match="num_reflections must be at least"):
        HouseholderGuide((3,), 4, num_reflections=0)


class TestContract(GuideSuite):
    part = "householder(num_reflections=2)"
