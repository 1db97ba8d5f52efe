"""Deterministic sites and factors beside what is observed: only true sample sites are drawn anew."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import bdmc, elbo_terms, log_likelihood, log_weights, sbc, to_inference_data
from pyro_vae.objectives import ReweightedWakeSleep

ONE = torch.ones((), dtype=torch.float64)


def program(extra):
    """z ~ N(0, 1)^2, x | z ~ N(z, 1), and something beside them in the plate."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            if extra == "event":
                pyro.deterministic("twice", 2 * z, event_dim=1)
            elif extra == "whole":
                pyro.deterministic("twice", 2 * z)
            elif extra == "scalar":
                pyro.deterministic("norm", z.norm(dim=-1), event_dim=0)
            elif extra == "of x":
                pyro.deterministic("mean", x.mean(-1))
            elif extra == "constant":
                pyro.factor("penalty", -0.5 * ONE.expand(z.shape[:-1]))
            elif extra == "zero":
                pyro.factor("penalty", 0 * ONE.expand(z.shape[:-1]))
            elif extra == "tilt":
                pyro.factor("penalty", -z.square().sum(-1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x / 2, (ONE / 2).sqrt()).to_event(1))


HARMLESS = ("event", "whole", "scalar", "of x", "zero", "constant")


@pytest.mark.parametrize("extra", HARMLESS)
def test_simulated_data_are_those_without_it(extra):
    x, plain, model = torch.zeros(8, 2).double(), program(None), program(extra)
    settings = {"num_temperatures": 4, "num_chains": 2, "burn_in": 1, "seed": 0, "compile": "off"}
    bare, found = bdmc(plain, x, **settings), bdmc(model, x, **settings)
    assert torch.equal(found.data, bare.data)
    shift = -0.5 if extra == "constant" else 0.0
    assert_close(found.lower.per_datum, bare.lower.per_datum + shift)
    assert_close(found.upper.per_datum, bare.upper.per_datum + shift)
    ranks = [sbc(each, guide, x, num_data=40, num_draws=9, seed=0).ranks for each in (plain, model)]
    assert torch.equal(*ranks)


@pytest.mark.parametrize("extra", ["event", "whole", "scalar", "of x", "zero"])
def test_the_export_is_that_without_it(extra):
    x = torch.randn(5, 2).double()
    bare, found = (to_inference_data(program(e), guide, x, num_samples=4, num_chains=2, seed=0) for e in (None, extra))
    for group in ("posterior", "posterior_predictive", "prior", "prior_predictive", "observed_data"):
        assert set(found[group].data_vars) == set(bare[group].data_vars)
        for name in bare[group].data_vars:
            assert (found[group][name].values == bare[group][name].values).all(), (group, name)


@pytest.mark.parametrize("extra", HARMLESS)
def test_the_sleep_phase_is_that_without_it(extra):
    x, losses = torch.randn(6, 2).double(), []
    for each in (None, extra):
        scale = ONE.clone().requires_grad_()

        def encoder(x, scale=scale):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

        pyro.set_rng_seed(0)
        loss = ReweightedWakeSleep(3, insomnia=0.5).tensor_loss(program(each), encoder, x)
        losses.append(torch.autograd.grad(loss, scale)[0])
    assert_close(*losses)


def test_a_factor_that_tilts_the_law_is_no_law_to_draw_from(caplog):
    x, model = torch.randn(6, 2).double(), program("tilt")
    message = r"pyro\.factor 'penalty' weighs"
    with pytest.raises(ValueError, match=f"bdmc: .*{message}"):
        bdmc(model, x, num_temperatures=5, num_chains=2)
    with pytest.raises(ValueError, match=f"sbc: .*{message}"):
        sbc(model, guide, x, num_data=20, num_draws=9)
    with pytest.raises(ValueError, match=f"ReweightedWakeSleep: .*{message}"):
        ReweightedWakeSleep(3, insomnia=0.5).tensor_loss(model, guide, x)
    with caplog.at_level("WARNING", logger="pyro_vae"):
        found = to_inference_data(model, guide, x, num_samples=4, num_chains=1)
    assert "pyro.factor 'penalty' makes p(x, z) unnormalised: posterior_predictive and prior_predic" in caplog.text
    assert "prior" not in found
    assert "log_likelihood" in found


def test_the_evidence_of_an_unnormalised_model_is_called_that():
    """Tilted by exp(-z^2), the integral over z is that of N(0, 1/3), times 1 / sqrt 3 a dim."""
    x, model = torch.randn(6, 2).double(), program("tilt")
    found = log_likelihood(model, guide, x, 20_000, seed=0)
    exact = dist.Normal(0 * ONE, (4 * ONE / 3).sqrt()).log_prob(x).sum(-1) - math.log(3)
    assert ((found.per_datum - exact).abs() < 5 * found.standard_errors).all()
    assert not found.bound
    assert not found.summary()["bound"]
    assert str(found).startswith("no log-likelihood (pyro.factor 'penalty' makes p(x, z) unnormalised): ")
    assert str(elbo_terms(model, guide, x, 5)).endswith("no bound: pyro.factor 'penalty' makes p(x, z) unnormalised")


def test_a_plate_that_takes_some_elements_of_a_datum_is_said(caplog):
    """Three of eight pixels: the number is the evidence of those, drawn anew each time, and of no datum."""

    def some(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1.0).expand([len(x), 1]))
            with pyro.plate("pixels", 8, subsample_size=3, dim=-1) as columns:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, columns])

    def encoder(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0 * ONE, 1.0).expand([len(x), 1]))

    x = torch.randn(5, 8).double()
    found = log_likelihood(some, encoder, x, 50)
    assert not found.bound
    assert str(found).startswith("no log-likelihood (plate 'pixels' scores 3 of 8 elements): ")
    with caplog.at_level("WARNING", logger="pyro_vae"):
        log_weights(some, encoder, x)
    assert "no weights of log p(x): plate 'pixels' scores 3 of 8 elements" in caplog.text


# What is observed


def observing(made_of):
    """A model that observes something made of its arguments."""

    def model(x, *others):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("seen", dist.Normal(z, 1.0).to_event(1), obs=made_of(x, *others))

    return model


X = torch.randn(8, 2).double()

MADE = {
    "standardised": (lambda x: (x - 50) / 3, X),
    "in another order": (lambda x: x.flip(-1), X),
    "cast from bytes": (lambda x: x.double() / 255, (50 * X.abs()).to(torch.uint8)),
    "rounded on the way back": (lambda x: x.double(), (50 * X.abs()).to(torch.uint8)),
    "a logarithm": (lambda x: x.log(), X.exp()),
    "the second argument": (lambda _, y: y, (X, X + 1)),
}


@pytest.mark.parametrize("made_of", MADE)
def test_draws_stand_for_no_data_that_the_model_does_not_observe_as_they_are(made_of):
    """A draw of (x - 50) / 3 in the place of x would be standardised again, and weighed as data of another law."""
    function, x = MADE[made_of]
    model, few = observing(function), {"num_temperatures": 3, "num_chains": 2, "seed": 0}
    with pytest.raises(ValueError, match=r"bdmc: .*site 'seen' observes"):
        bdmc(model, x, **few)

    def guide(x, *others):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"sbc: .*site 'seen' observes"):
        sbc(model, guide, x, num_data=8, num_draws=9, seed=0)


@pytest.mark.parametrize("made_of", [lambda x: x.clone(), lambda x: x.reshape(8, 2), lambda x: x * 1])
def test_a_copy_of_the_data_is_the_data(made_of):
    found = bdmc(observing(made_of), X, num_temperatures=3, num_chains=2, seed=0)
    assert found.lower.per_datum.isfinite().all()


def test_bounds_of_an_unnormalised_model_say_so():
    few = {"num_temperatures": 3, "num_chains": 2, "seed": 0}
    assert "no log p(x): pyro.factor 'penalty' makes p(x, z) unnormalised" in str(bdmc(program("constant"), X, **few))
    assert bdmc(program("constant"), X, **few).summary()["caveat"].startswith("pyro.factor 'penalty'")
    assert "no log p(x)" not in str(bdmc(program(None), X, **few))
