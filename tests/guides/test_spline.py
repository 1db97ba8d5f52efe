"""Neural spline flows: Jacobian by autograd, mass by quadrature, other z scored, a bent posterior."""

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from pyro_vae.guides import SplineGuide
from pyro_vae.guides.spline import stretch, unstretch
from pyro_vae.testing import GuideSuite


def stirred(latent_dim=4, num_flows=3, size=0.5):
    """Away from the start, so that a density is bent."""
    guide = SplineGuide((3,), latent_dim, (5,), num_flows=num_flows, flow_hidden_dims=(8,), context_dim=3, num_bins=5)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return guide.double()


def test_log_determinant_by_autograd():
    for layer in stirred().layers:
        context = torch.randn(3).double()
        for _ in range(10):
            z = 2 * torch.randn(4).double()
            jacobian = torch.autograd.functional.jacobian(
                lambda z, layer=layer, context=context: layer(z, context)[0], z
            )
            found = layer(z, context)[1]
            assert_close(found, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)


def test_the_last_step_stretches_by_the_scale():
    z, loc, scale = torch.randn(5, 7, 3).double(), torch.randn(7, 3).double(), torch.rand(7, 3).double() + 0.1
    moved, log_det = stretch(z, loc, scale)
    noise = Normal(torch.zeros(3).double(), 1.0).log_prob(z) - Normal(loc, scale).log_prob(moved)
    assert_close(log_det.expand(5, 7), noise.sum(-1), rtol=1e-9, atol=1e-9)
    assert_close(unstretch(moved, loc, scale), (z, log_det), rtol=1e-9, atol=1e-9)


def test_inverses_undo_their_steps_inside_and_outside_the_splines():
    context = torch.randn(50, 3).double()
    for layer in stirred().layers:
        z = 4 * torch.randn(50, 4).double()
        found, log_det = layer(z, context)
        assert_close(layer.inverse(found, context), (z, log_det), rtol=1e-8, atol=1e-8)
        assert torch.equal(found[:, layer.halves.fixed], z[:, layer.halves.fixed])
        before, after = z[:, layer.halves.moved], found[:, layer.halves.moved]
        outside = before.abs() > 5
        assert outside.any()
        assert torch.equal(after[outside], before[outside])
        assert ((after - before)[~outside].abs() > 0).all()


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 6])
def test_two_layers_move_each_dimension_once(latent_dim):
    layers = [layer.halves for layer in stirred(latent_dim, num_flows=4).layers]
    for one, other in (layers[:2], layers[2:]):
        assert sorted([*one.fixed, *one.moved]) == list(range(latent_dim))
        assert latent_dim == 1 or sorted([*one.moved, *other.moved]) == list(range(latent_dim))


def test_a_single_dimension_is_moved_by_every_layer():
    assert [list(layer.halves.moved) for layer in stirred(1, num_flows=4).layers] == [[0]] * 4


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_densities_have_mass_one_sampled_or_scored(quadrature, latent_dim):
    """Splines have a kink in the density at each knot: trapezoids of width h are off by the order of h^2."""
    q = stirred(latent_dim, size=0.2).posterior(torch.rand(1, 3).double())
    quadrature.points = 541
    assert q.invertible
    assert_close(quadrature.mass_of_another_density(q), torch.ones(1).double(), rtol=1e-3, atol=0)
    assert_close(quadrature.mass(q), torch.ones(1).double(), rtol=1e-3, atol=0)


def test_draws_are_scored_as_another_z_is():
    q = stirred().posterior(torch.randn(6, 3).double())
    z = q.rsample((100,))
    assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("latent_dim", [2, 7])
def test_passes_through_each_network_do_not_grow_with_the_dimension(latent_dim):
    guide, passes = stirred(latent_dim), []
    for layer in guide.layers:
        layer.network.register_forward_hook(lambda *_: passes.append(1))
    q = guide.posterior(torch.zeros(4, 3).double())
    z = q.rsample((6,))
    q.log_prob(z)
    assert len(passes) == 3
    q.log_prob(z.clone())
    assert len(passes) == 3 + 3


@pytest.mark.parametrize("latent_dim", [2, 4, 6])
def test_four_layers_couple_every_dimension_with_every_other(latent_dim):
    q = stirred(latent_dim, num_flows=4).posterior(torch.zeros(1, 3).double())
    noise = 0.5 * torch.randn(20, latent_dim).double()
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda e: q.push(e)[0][0], e) for e in noise])
    assert (jacobians.abs().amax(0).squeeze() > 0).all()


def test_it_comes_closer_to_a_parabola_than_the_best_mean_field(banana):
    guide = SplineGuide((1,), 2, (), num_flows=2, flow_hidden_dims=(16,), context_dim=1)
    # From the standard normal: within 600 steps, splines do not make up for a start that is far too wide.
    torch.nn.init.zeros_(guide.encoder.output.weight)
    q = banana.fit(guide, steps=600)
    assert 0 < banana.gap(q) < 0.5 * banana.mean_field_gap


def test_what_makes_no_sense_is_refused():
    for argument, value, least in (("num_flows", 0, 1), ("context_dim", 0, 1), ("num_bins", 1, 2)):
        with pytest.raises(ValueError, match=f"{argument} must be at least {least}"):
            SplineGuide((3,), 4, **{argument: value})
    with pytest.raises(ValueError, match=r"activation must .*'sine'"):
        SplineGuide((3,), 4, activation="sine", encoder=torch.nn.Linear(3, 58))


class TestContract(GuideSuite):
    part = "spline(num_flows=2, flow_hidden_dims=(6,), context_dim=3, num_bins=4)"
