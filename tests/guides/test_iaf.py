"""Inverse autoregressive flows: Jacobian by autograd, mass by quadrature, one pass to sample, a bent posterior."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.guides import InverseAutoregressiveGuide
from pyro_vae.guides.iaf import gated, ungated
from pyro_vae.nn.made import MADE
from pyro_vae.testing import GuideSuite


def stirred(guide, size=1.0):
    """Away from the start, so that a density is bent."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return guide


def step(positions=(2, 0, 3, 1)):
    return {"context": torch.randn(3).double(), "made": stirred(MADE(positions, 3, (8,), 2).double())}


def test_log_determinant_by_autograd():
    for _ in range(20):
        flow, z = step(), torch.randn(4).double()
        jacobian = torch.autograd.functional.jacobian(lambda z, flow=flow: gated(z, **flow)[0], z)
        assert_close(gated(z, **flow)[1], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-10, atol=1e-10)


def test_the_inverse_undoes_a_step():
    flow, z = step(), torch.randn(9, 4).double()
    moved, log_det = gated(z, **flow)
    assert_close(ungated(moved, **flow), (z, log_det), rtol=1e-8, atol=1e-8)


def test_gates_mix_z_with_m():
    made = MADE((0, 1), 3, (), 2).double()
    nn.init.zeros_(made.first.weight)
    nn.init.zeros_(made.context.weight)
    made.first.bias.data = torch.tensor([5.0, -7.0, 0.0, 1.0]).double()
    s = torch.tensor([0.0, 1.0]).double().sigmoid()
    z = torch.randn(6, 2).double()
    found, log_det = gated(z, torch.randn(3).double(), made)
    assert_close(found, s * z + (1 - s) * torch.tensor([5.0, -7.0]).double(), rtol=1e-12, atol=1e-12)
    assert_close(log_det, s.log().sum().expand(6), rtol=1e-12, atol=1e-12)


def test_densities_have_mass_one_sampled_or_scored(quadrature):
    guide = stirred(InverseAutoregressiveGuide((3,), 2, (5,), num_flows=3, flow_hidden_dims=(8,), context_dim=3), 0.3)
    q = guide.double().posterior(torch.rand(3, 3).double())
    assert q.invertible
    assert_close(quadrature.mass_of_another_density(q), torch.ones(3).double(), rtol=1e-6, atol=0)
    assert_close(quadrature.mass(q), torch.ones(3).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("latent_dim", [2, 5, 20])
def test_a_sample_and_its_density_are_one_pass_through_each_network(latent_dim):
    guide = InverseAutoregressiveGuide((3,), latent_dim, (5,), num_flows=3)
    passes = []
    for made in guide.networks:
        made.register_forward_hook(lambda *_: passes.append(1))
    q = guide.posterior(torch.zeros(4, 3))
    z = q.rsample((6,))
    q.log_prob(z)
    assert len(passes) == 3
    q.log_prob(z.clone())
    assert len(passes) == 3 + 3 * latent_dim


def test_another_z_is_scored_with_the_gradient_of_the_same_function():
    """At a fixed z, by central differences of every parameter along one direction."""
    guide = stirred(InverseAutoregressiveGuide((3,), 3, (5,), num_flows=2, flow_hidden_dims=(6,)), 0.3).double()
    x, z = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    direction = [torch.randn_like(parameter) for parameter in guide.parameters()]

    def moved(step):
        with torch.no_grad():
            for parameter, along in zip(guide.parameters(), direction, strict=True):
                parameter.add_(step * along)
            value = guide.posterior(x).log_prob(z).sum()
            for parameter, along in zip(guide.parameters(), direction, strict=True):
                parameter.sub_(step * along)
        return value

    gradient = torch.autograd.grad(guide.posterior(x).log_prob(z).sum(), list(guide.parameters()))
    slope = sum((g * along).sum() for g, along in zip(gradient, direction, strict=True))
    assert_close(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-6)


def test_it_starts_near_the_identity_with_its_order_reversed_from_flow_to_flow():
    guide = InverseAutoregressiveGuide((3,), 4, (5,), num_flows=3)
    assert [made.positions for made in guide.networks] == [(0, 1, 2, 3), (3, 2, 1, 0), (0, 1, 2, 3)]
    z, context = torch.randn(1000, 4), torch.randn(1000, 50)
    for made in guide.networks:
        m, gate = made(z, context)
        assert (torch.sigmoid(gate) > 0.8).float().mean() > 0.99
        assert m.abs().mean() < 0.5


def test_it_comes_closer_to_a_parabola_than_the_best_mean_field(banana):
    guide = InverseAutoregressiveGuide((1,), 2, (), num_flows=4, flow_hidden_dims=(16,), context_dim=1)
    q = banana.fit(guide, rate=0.1)
    assert 0 < banana.gap(q) < 0.2 * banana.mean_field_gap


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="num_flows must be at least"):
        InverseAutoregressiveGuide((3,), 4, num_flows=0)
    with pytest.raises(ValueError, match="context_dim must be at least"):
        InverseAutoregressiveGuide((3,), 4, context_dim=0)
    with pytest.raises(ValueError, match=r"latent_dim must .*MeanField"):
        InverseAutoregressiveGuide((3,), 1)
    with pytest.raises(ValueError, match=r"as wide as z, 50, .*\(20,\)"):
        InverseAutoregressiveGuide((3,), 50, flow_hidden_dims=(20,))


class TestContract(GuideSuite):
    part = "iaf(num_flows=2, flow_hidden_dims=(6,), context_dim=3)"
