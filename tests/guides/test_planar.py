"""Planar flows: their Jacobian by autograd, their mass by quadrature, and a posterior no Gaussian matches."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.guides import PlanarGuide
from pyro_vae.guides.planar import planar
from pyro_vae.testing import GuideSuite


def parameters(*batch, dim=4, size=1.0):
    u, w = size * torch.randn(*batch, dim).double(), size * torch.randn(*batch, dim).double()
    return u, w, size * torch.randn(batch).double()


@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
def test_log_determinant_by_autograd(size):
    for _ in range(20):
        flow, z = parameters(size=size), torch.randn(4).double()
        jacobian = torch.autograd.functional.jacobian(lambda z, flow=flow: planar(z, *flow)[0], z)
        found = planar(z, *flow)[1]
        # Where the determinant is small, the Jacobian's entries of order 1 leave 1e-16 / det of it.
        assert_close(found, torch.linalg.det(jacobian).log(), rtol=1e-9, atol=1e-15 * (-found).exp().item() + 1e-9)


def test_the_constraint_holds_for_any_u_and_w():
    """Invertible: along w, z moves by more than -1 a unit; 1 + w^T u-hat = log(1 + (e - 1) exp(w^T u))."""
    u, w, _ = parameters(1000, size=3.0)
    # Where the hyperbolic tangent is 1, z moves by u-hat.
    moved = planar(torch.zeros(1000, 4).double(), u, w, torch.full((1000,), 50.0).double())[0]
    exact = (1 + (torch.e - 1) * (w * u).sum(-1).exp()).log()
    assert_close(1 + (w * moved).sum(-1), exact, rtol=1e-9, atol=1e-12)


def test_a_zero_u_leaves_z_alone():
    _, w, b = parameters(7)
    z = torch.randn(5, 7, 4).double()
    moved, log_det = planar(z, torch.zeros(7, 4).double(), w, b)
    assert_close(moved, z, rtol=0, atol=1e-15)
    assert_close(log_det, torch.zeros(5, 7).double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1e15])
def test_w_of_any_length_gives_finite_moves_and_gradients(size):
    u, w, b = (p.float() for p in parameters(50))
    w, z = (w * size).requires_grad_(), torch.randn(50, 4)
    u.requires_grad_()
    moved, log_det = planar(z, u, w, b)
    assert (moved - z).norm(dim=-1).le(1.001 * u.norm(dim=-1) + 1).all()
    (moved.sum() + log_det.sum()).backward()
    assert u.grad.isfinite().all()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("dim", [1, 2])
def test_samples_have_the_mass_of_a_density(quadrature, dim):
    guide = PlanarGuide((3,), dim, (5,)).double()
    q = guide.posterior(3 * torch.randn(4, 3).double())
    assert not q.invertible
    assert_close(quadrature.mass_of_another_density(q), torch.ones(4).double(), rtol=1e-6, atol=0)


def test_it_comes_closer_to_a_parabola_than_the_best_mean_field(banana):
    q = banana.fit(PlanarGuide((1,), 2, (), num_flows=8), steps=600)
    assert 0 < banana.gap(q) < 0.5 * banana.mean_field_gap


def test_features_are_location_log_scale_then_each_flow():
    encoder = torch.nn.Linear(3, 4 + 2 * 5).double()
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.arange(14.0) / 10)
    q = PlanarGuide((3,), 2, num_flows=2, encoder=encoder).posterior(torch.zeros(1, 3).double())
    noise = torch.randn(1, 2).double()
    loc, scale = torch.tensor([0.0, 0.1]).double(), torch.tensor([0.2, 0.3]).double().exp()
    z = loc + scale * noise
    for start in (4, 9):
        u, w, b = encoder.bias[start : start + 5].split([2, 2, 1])
        z = planar(z, u, w, b.squeeze())[0]
    assert_close(q.push(noise)[0], z, rtol=1e-12, atol=1e-12)


def test_another_z_is_refused_by_name():
    q = PlanarGuide((3,), 2, (5,)).posterior(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"PlanarGuide: .* has no inverse"):
        q.log_prob(torch.zeros(4, 2))


def test_no_flows_are_refused():
    with pytest.raises(ValueError, match="num_flows must be at least"):
        PlanarGuide((3,), 4, num_flows=0)


class TestContract(GuideSuite):
    part = "planar(num_flows=2)"
