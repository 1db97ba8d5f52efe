"""A Gaussian pushed through steps: its densities in closed form, what it remembers, and what it refuses."""

import gc
import weakref

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution
from torch.testing import assert_close

from pyro_vae.distributions.flow import FlowDistribution, FlowStep


def sinh(z):
    return z.sinh(), z.cosh().log().sum(-1)


def asinh(z):
    return z.asinh(), z.asinh().cosh().log().sum(-1)


def stretch(factor):
    def forward(z):
        return z * factor, factor.abs().log().sum(-1)

    def inverse(z):
        return z / factor, factor.abs().log().sum(-1)

    return FlowStep(forward, inverse)


def flow(batch=(6,), dim=3, inverse=True, **kwargs):
    loc = torch.randn(*batch, dim).double().requires_grad_()
    scale = (torch.rand(*batch, dim).double() + 0.2).requires_grad_()
    factor = (torch.randn(*batch, dim).double() + 2).requires_grad_()
    steps = [FlowStep(sinh, asinh if inverse else None), stretch(factor)]
    return FlowDistribution(loc, scale, steps, **kwargs), (loc, scale, factor)


def test_density_in_closed_form():
    """The sinh of a normal variable has the density of Johnson's S_U law, here written out."""
    q, (loc, scale, factor) = flow()
    z = torch.randn(5, 6, 3).double()
    y = z / factor
    log_prob = Normal(loc, scale).log_prob(y.asinh()) - 0.5 * (1 + y.square()).log() - factor.abs().log()
    assert_close(q.log_prob(z), log_prob.sum(-1), rtol=1e-12, atol=1e-12)


def test_draws_have_its_distribution_function():
    """Kolmogorov's distance of 100 000 draws: above 2.2 / sqrt(n) with a probability of 1e-4."""
    loc, scale = torch.tensor([0.3]).double(), torch.tensor([0.7]).double()
    q = FlowDistribution(loc, scale, [FlowStep(sinh, asinh), stretch(torch.tensor([2.0]).double())])
    u = Normal(loc, scale).cdf((q.rsample((100_000,)) / 2).asinh()).flatten().sort().values
    even = (torch.arange(100_000) + 0.5) / 100_000
    assert (u - even).abs().max() < 2.2 / 100_000**0.5


def test_one_z_is_scored_for_every_datum():
    q, _ = flow()
    z = torch.randn(3).double()
    assert_close(q.log_prob(z), q.log_prob(z.expand(6, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5)])
def test_the_last_draw_is_scored_as_its_inverse_scores_it(shape):
    q, _ = flow()
    z = q.rsample(shape)
    assert z.shape == (*shape, 6, 3)
    assert q.log_prob(z) is q.log_prob(z)
    assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-12, atol=1e-12)


def test_gradients_of_the_remembered_density_are_those_through_the_inverse():
    q, parameters = flow()
    z = q.rsample((5,))
    for function in (lambda log_q: log_q.sum(), lambda log_q: (log_q + z.square().sum(-1)).sum()):
        remembered = torch.autograd.grad(function(q.log_prob(z)), parameters, retain_graph=True)
        scored = torch.autograd.grad(function(q.log_prob(z.clone())), parameters, retain_graph=True)
        assert_close(remembered, scored, rtol=1e-9, atol=1e-9)


def test_no_other_tensor_is_taken_for_the_last_draw():
    q, _ = flow(inverse=False, owner="SomeGuide")
    first, z = q.rsample(), q.rsample()
    q.log_prob(z)
    for other in (first, z.clone(), z.detach(), z + 0, z[:], torch.zeros(6, 3).double(), q.expand((4, 6)).rsample()):
        with pytest.raises(ValueError, match=r"SomeGuide: .*has no inverse"):
            q.log_prob(other)


def test_a_draw_changed_in_place_is_another_z():
    q, _ = flow()
    z = q.sample()
    with torch.no_grad():
        before = q.log_prob(z)
        z += 1
        assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-12, atol=1e-12)
        assert (q.log_prob(z) - before).abs().min() > 1e-3
    without, _ = flow(inverse=False)
    z = without.sample()
    z += 1
    with pytest.raises(ValueError, match="has no inverse"):
        without.log_prob(z)


def test_a_draw_without_gradient_is_not_scored_with_a_silent_zero_gradient():
    q, parameters = flow()
    z = q.sample()
    expected = torch.autograd.grad(q.log_prob(z.clone()).sum(), parameters)
    assert_close(torch.autograd.grad(q.log_prob(z).sum(), parameters), expected)
    without, _ = flow(inverse=False, owner="SomeGuide")
    z = without.sample()
    with pytest.raises(ValueError, match=r"SomeGuide: .*without gradients"):
        without.log_prob(z)
    with torch.no_grad():
        assert without.log_prob(z).shape == (6,)


def test_inference_mode():
    q, _ = flow(inverse=False)
    with torch.inference_mode():
        assert q.log_prob(q.rsample((2,))).shape == (2, 6)


def test_only_the_last_draw_is_kept():
    q, _ = flow()
    first = weakref.ref(q.rsample())
    z = q.rsample()
    gc.collect()
    assert first() is None
    second = weakref.ref(z)
    del q, z
    gc.collect()
    assert second() is None


@pytest.mark.parametrize("inverse", [True, False])
def test_a_wider_batch_draws_for_itself_and_keeps_the_checks(inverse):
    q, _ = flow(inverse=inverse, validate_args=True, owner="SomeGuide")
    wide = q.expand((4, 6))
    assert (wide.batch_shape, wide.event_shape, wide.owner, wide.invertible) == ((4, 6), (3,), "SomeGuide", inverse)
    z = wide.rsample((2,))
    assert (z.shape, wide.log_prob(z).shape) == ((2, 4, 6, 3), (2, 4, 6))
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((4, 6, 3), float("nan")).double())


def test_a_draw_that_is_not_a_number_is_refused_though_remembered():
    q = FlowDistribution(
        torch.zeros(3), torch.ones(3), [FlowStep(lambda z: (z * float("nan"), z.sum(-1)))], validate_args=True
    )
    with pytest.raises(ValueError, match="support"):
        q.log_prob(q.rsample())


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="scale"):
        FlowDistribution(torch.zeros(3), -torch.ones(3), [], validate_args=True)


def test_a_pyro_site_in_two_plates_scores_what_it_drew():
    q, _ = flow(inverse=False)

    def program():
        with pyro.plate("samples", 5, dim=-2), pyro.plate("data", 6, dim=-1):
            pyro.sample("z", q)

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (5, 6, 3)
    assert trace.nodes["z"]["log_prob"].shape == (5, 6)


def test_steps_are_taken_in_their_order_as_torch_composes_them():
    loc, scale = torch.randn(3).double(), torch.rand(3).double() + 0.1

    def tanh(z):
        return z.tanh(), (1 - z.tanh().square()).log().sum(-1)

    def shift(z):
        return 1 + 2 * z, torch.tensor([2.0, 2.0, 2.0]).double().log().sum(-1)

    q = FlowDistribution(loc, scale, [FlowStep(tanh), FlowStep(shift)])
    composed = TransformedDistribution(Normal(loc, scale), [TanhTransform(), AffineTransform(1.0, 2.0)])
    z = q.rsample((5,))
    assert_close(q.log_prob(z), composed.log_prob(z).sum(-1), rtol=1e-9, atol=1e-9)


def test_a_flow_that_does_not_remember_scores_its_draw_by_the_inverses_also_after_a_change():
    factor = torch.tensor(2.0)
    double = FlowStep(lambda z: (z * factor, factor.log()), lambda z: (z / factor, factor.log()))
    q = FlowDistribution(torch.zeros(1), torch.ones(1), [double], remembers=False).expand((3,))
    z = q.rsample()
    factor.fill_(4.0)
    assert_close(q.log_prob(z), Normal(0.0, 4.0).log_prob(z).sum(-1))
