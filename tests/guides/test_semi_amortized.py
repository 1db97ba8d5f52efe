"""Steps from the encoder's start: none is mean-field, each is up, and many reach the closed best."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

import pyro_vae
from pyro_vae import elbo_terms, log_weights
from pyro_vae.guides import MeanFieldGuide, SemiAmortizedGuide
from pyro_vae.models import VAE
from pyro_vae.testing import GuideSuite

SHAPE = (1, 2, 3)


def gaps(case, guide, x):
    """KL(q || p(z | x)) of each datum, in closed form."""
    with torch.no_grad():
        q = guide.posterior(x)
        return kl_divergence(MultivariateNormal(q.mean, q.variance.diag_embed()), case.model.posterior(x))


def guide_for(case, start=1.0, **settings):
    """One whose encoder starts anywhere: locations and log scales of that order."""
    x_dim, latent_dim = case.model.loadings.shape
    encoder = nn.Linear(x_dim, 2 * latent_dim)
    nn.init.normal_(encoder.weight, std=0.3 * start)
    nn.init.normal_(encoder.bias, std=start)
    return SemiAmortizedGuide((x_dim,), latent_dim, model=case.model, encoder=encoder, **settings).double()


def test_no_step_is_mean_field():
    model, x = VAE(SHAPE, 4, (5,)), torch.rand(7, *SHAPE).round()
    guide, plain = SemiAmortizedGuide(SHAPE, 4, (5,), num_steps=0, model=model), MeanFieldGuide(SHAPE, 4, (5,))
    plain.load_state_dict(guide.state_dict())
    found = []
    for either in (guide, plain):
        torch.manual_seed(1)
        weights = log_weights(model, either, x, 3)
        found.append([weights, *torch.autograd.grad(weights.sum(), list(either.parameters()))])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("step_size", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.5, 3.0])
def test_no_step_lowers_the_exact_elbo_of_any_datum(linear_gaussian, step_size, start):
    """Four pairs are exact for a quadratic in three dims, also with a posterior that is correlated."""
    case = linear_gaussian
    guide, x = guide_for(case, start, step_size=step_size, num_pairs=4), case.data(30)
    path = []
    for guide.num_steps in range(21):
        path.append(gaps(case, guide, x))
    path = torch.stack(path)
    assert (path.diff(dim=0) < 1e-9).all()
    assert (path[1] < path[0]).all()


def test_many_steps_reach_the_best_mean_field_solution(linear_gaussian):
    """loc = the posterior's mean, scale_d^2 = 1 / its precision's diagonal."""
    case = linear_gaussian
    guide, x = guide_for(case, num_steps=300, num_pairs=4), case.data(6)
    exact = case.model.posterior(x)
    with torch.no_grad():
        found = guide.posterior(x)
    assert_close(found.mean, exact.mean, rtol=0, atol=1e-6)
    assert_close(found.variance, 1 / exact.precision_matrix.diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=0)


def test_one_pair_reaches_a_posterior_that_is_diagonal(make_linear_gaussian):
    """Every weight equals the evidence."""
    case = make_linear_gaussian(orthogonal=True)
    guide, x = guide_for(case, num_steps=100), case.data(7)
    with torch.no_grad():
        assert_close(log_weights(case.model, guide, x, 3), case.evidence(x).expand(3, 7), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 50])
def test_all_pairs_together_are_uncorrelated(latent_dim):
    most = {1: 1, 2: 2, 3: 4, 50: 64}[latent_dim]
    signs = SemiAmortizedGuide(SHAPE, latent_dim, num_pairs=most, model=VAE(SHAPE, latent_dim)).signs
    assert torch.equal(signs.T @ signs, most * torch.eye(latent_dim))


def moments(guide, x):
    q = guide.posterior(x)
    return torch.cat([q.mean, q.stddev], dim=-1)


def test_gradients_through_the_steps_are_finite_differences():
    """To encoder and decoder alike, by central differences along one random direction each."""
    model = VAE(SHAPE, 2, (5,)).double()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), num_steps=3, num_pairs=2, model=model).double()
    x, weights = torch.rand(4, *SHAPE).double().round(), torch.randn(4, 4).double()
    for module in (guide, model):
        parameters = list(module.parameters())
        found = torch.autograd.grad((weights * moments(guide, x)).sum(), parameters)
        directions = [torch.randn_like(parameter) for parameter in parameters]
        ends = []
        for shift in (1e-5, -2e-5):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += shift * direction
                ends.append((weights * moments(guide, x)).sum())
        expected = (ends[0] - ends[1]) / 2e-5
        along = sum((gradient * direction).sum() for gradient, direction in zip(found, directions, strict=True))
        assert_close(along, expected, rtol=1e-6, atol=1e-8)
        assert along.abs() > 1e-3


def test_stopped_steps_are_constants():
    """The encoder's gradient is that of its own output, taken where the steps end; the model's is none."""
    model, x = VAE(SHAPE, 2, (5,)), torch.rand(4, *SHAPE).round()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), num_steps=3, differentiable=False, model=model)
    q = guide.posterior(x)
    loc, log_scale = guide.features(x)
    assert not torch.allclose(q.mean, loc)
    parameters = list(guide.parameters())
    found = torch.autograd.grad((q.mean + q.stddev.log()).sum(), parameters, retain_graph=True)
    assert_close(found, torch.autograd.grad((loc + log_scale).sum(), parameters))
    assert torch.autograd.grad(q.mean.sum(), list(model.parameters()), allow_unused=True) == (None,) * len(
        list(model.parameters())
    )


@pytest.mark.parametrize("differentiable", [True, False])
def test_steps_are_taken_without_gradients_as_well(differentiable):
    model, x = VAE(SHAPE, 2, (5,)), torch.rand(4, *SHAPE).round()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), differentiable=differentiable, model=model)
    with torch.no_grad():
        found = moments(guide, x)
    assert not found.requires_grad
    assert_close(found, moments(guide, x))


def test_a_frozen_encoder_still_leads_gradients_to_the_model():
    model, x = VAE(SHAPE, 2, (5,)), torch.rand(4, *SHAPE).round()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), model=model).requires_grad_(False)
    gradients = torch.autograd.grad(moments(guide, x).sum(), list(model.parameters()), allow_unused=True)
    assert gradients[0].abs().sum() > 0


def test_the_model_is_no_part_of_the_guide():
    model, x = VAE(SHAPE, 2, (5,)), torch.rand(4, *SHAPE).round()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), model=model)
    assert set(guide.state_dict()) == set(MeanFieldGuide(SHAPE, 2, (5,)).state_dict())
    before = moments(guide, x)
    assert list(poutine.trace(guide).get_trace(x).stochastic_nodes) == ["data", "z"]
    assert len(pyro.get_param_store()) == len(list(guide.parameters()))
    with torch.no_grad():
        model.likelihood.decoder.output.weight.mul_(3)
    assert not torch.allclose(moments(guide, x), before)


def test_leading_dims_of_x_are_kept():
    x = torch.rand(6, *SHAPE).round()
    guide = SemiAmortizedGuide(SHAPE, 2, (5,), num_pairs=2, model=VAE(SHAPE, 2, (5,)))
    assert_close(moments(guide, x.reshape(2, 3, *SHAPE)), moments(guide, x).reshape(2, 3, 4))


def test_a_scaled_model_takes_the_same_steps():
    model, x = VAE(SHAPE, 2, (5,)), torch.rand(4, *SHAPE).round()
    first = SemiAmortizedGuide(SHAPE, 2, (5,), model=model)
    second = SemiAmortizedGuide(SHAPE, 2, (5,), model=poutine.scale(model, 0.1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(moments(first, x), moments(second, x))


@pytest.mark.parametrize("level", ["trace", "off"])
@pytest.mark.parametrize("differentiable", [True, False])
def test_fit_trains_it_and_its_steps_pay(level, differentiable, caplog):
    """After training, the bound without the steps is lower by more than 5 standard errors."""
    x = torch.rand(40, *SHAPE).round()
    model = VAE(SHAPE, 2, (8,))
    guide = SemiAmortizedGuide(SHAPE, 2, (8,), num_steps=3, differentiable=differentiable, model=model)
    before = elbo_terms(model, guide, x, num_samples=500, seed=0).elbo
    optimizer = partial(torch.optim.Adam, lr=0.02)
    pyro_vae.fit(model, guide, x, epochs=30, batch_size=20, compile=level, optimizer=optimizer)
    assert "runs eagerly" not in caplog.text
    after = elbo_terms(model, guide, x, num_samples=500, seed=0).elbo
    guide.num_steps = 0
    without = elbo_terms(model, guide, x, num_samples=500, seed=0).elbo
    assert after.mean > before.mean + 5 * (before.standard_error + after.standard_error)
    assert after.mean > without.mean + 5 * (without.standard_error + after.standard_error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps must be at least 0"),
        ({"step_size": 0.0}, r"step_size must be above 0.*0\.0"),
        ({"step_size": 1.0}, r"step_size must be above 0.*1\.0"),
        ({"num_pairs": 0}, "num_pairs must be from 1 .*got 0"),
        ({"num_pairs": 5}, "num_pairs must be from 1 .*got 5"),
        ({"model": None}, "model must be .*; got NoneType"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"SemiAmortizedGuide: {message}"):
        SemiAmortizedGuide(SHAPE, 3, **{"model": VAE(SHAPE, 3), **settings})


def sampling(*names, observed=()):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in names:
                pyro.sample(name, dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            for name in observed:
                pyro.sample(name, dist.Normal(0.0, 1.0).expand(SHAPE).to_event(3), obs=x)

    return model


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        (sampling("w", observed="x"), r"w, x \(observed\)"),
        (sampling("z"), "z"),
        (sampling("z", "y", observed="x"), r"z, y, x \(observed\)"),
        (sampling(), "none"),
    ],
)
def test_a_model_with_other_sites_is_refused(model, sites):
    guide = SemiAmortizedGuide(SHAPE, 3, (5,), model=model)
    with pytest.raises(ValueError, match=rf"sample 'z' alone .*are {sites}\."):
        guide.posterior(torch.rand(4, *SHAPE))


class TestContract(GuideSuite):
    part = "semi_amortized(num_steps=2)"
