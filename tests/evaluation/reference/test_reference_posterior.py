"""Posteriors that are known, chains that must not be trusted, and data that must survive beside them."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from pyro_vae.errors import PairError, SupportError
from pyro_vae.evaluation import ReferencePosterior, guide_error, reference_posterior
from pyro_vae.evaluation.reference.chain_diagnostics import ess, r_hat
from pyro_vae.models import VAE

SMALL = {"num_chains": 2, "num_samples": 10, "warmup": 10, "seed": 0, "progress": False}


@pytest.mark.slow
def test_moments_are_those_of_the_gaussian_posterior(make_linear_gaussian):
    """Within 4 standard errors, that come of effective sample sizes."""
    case = make_linear_gaussian(x_dim=4, latent_dim=2)
    x = case.data(1)
    found = reference_posterior(case.model, x, num_samples=300, warmup=100, seed=1, progress=False)
    exact = case.model.posterior(x)
    assert found.trusted.all()
    assert found.draws.shape == (4, 300, 1, 2)
    assert ((found.mean - exact.mean).abs() < 4 * found.mean_standard_error).all()
    sd = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.sd - sd).abs() < 4 * found.sd_standard_error).all()
    # Errors that could not fail would be large: a few hundred effective draws at the least.
    assert (found.mean_standard_error < 0.1 * sd).all()
    assert (found.sd_standard_error < 0.1 * sd).all()
    assert_close(found.log_joint, case.evidence(x) + exact.log_prob(found.draws))
    assert torch.equal(found.values["z"], found.draws)
    assert_close(found.r_hat, r_hat(found.draws))
    assert_close(found.ess_bulk, ess(found.draws, "bulk"))
    assert_close(found.ess_tail, ess(found.draws, "tail"))
    text = str(found)
    assert text.startswith(
        "posterior of 1 datum in 2 dims by NUTS (4 chains x 300 draws): 1 of 1 trusted, largest R-hat"
    )
    assert text.endswith("0 divergences")
    # And a guide is held against them: its divergence is the closed one.
    error = guide_error(found, case.model, case.inexact_guide, x, seed=1)
    wrong = MultivariateNormal(case.diagonal(x).mean, torch.diag_embed(case.diagonal(x).variance))
    assert ((error.kl.per_datum - kl_divergence(wrong, exact)).abs() < 4 * error.kl.standard_errors).all()
    assert (error.kl.standard_errors < 0.1).all()


def poisson(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(3.0), 2.0))
        pyro.sample("x", dist.Poisson(rate.unsqueeze(-1) * torch.ones_like(x)).to_event(1), obs=x)


@pytest.mark.slow
def test_a_constrained_posterior_is_the_conjugate_one():
    """Gamma(3 + sum x, 2 + 4), in rates where the chain moves in their logarithm; 4 standard errors."""
    x = torch.tensor([[1.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    found = reference_posterior(poisson, x, num_samples=300, warmup=80, seed=2, progress=False)
    assert found.trusted.all()
    rates = found.values["rate"]
    assert rates.shape == (4, 300, 1)
    assert_close(rates, found.draws[..., 0].exp())
    error = (rates.var() / ess(rates)).sqrt()
    assert (rates.mean() - 7 / 6).abs() < 4 * error
    assert error < 0.03


def two_modes(x):
    """z = +-sqrt(x) for x above 0, and one mode at 0 below."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.square(), 0.3).to_event(1), obs=x)


@pytest.mark.slow
def test_chains_in_different_modes_are_refused_and_do_not_touch_the_datum_beside():
    x = torch.tensor([[4.0], [-1.0]], dtype=torch.float64)
    found = reference_posterior(two_modes, x, num_chains=6, num_samples=100, warmup=50, seed=3, progress=False)
    assert not found.trusted[0]
    assert found.r_hat[0, 0] > 1.5
    # So few draws of a single mode: little above 1.
    assert found.r_hat[1, 0] < 1.05
    assert found.summary()["num_trusted"] == found.trusted.sum()
    assert "the others (R-hat > 1.01, or more than 0.1 % divergent) are no reference" in str(found)


def cliff(x):
    """Beyond 0.5 the density falls by millions of nats at once, which no step size can follow."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.where(z > 0.5, 1e4, 0.0), 1.0).to_event(1), obs=x)


def test_divergent_chains_are_counted_and_not_trusted():
    found = reference_posterior(cliff, torch.zeros(1, 1).double(), **(SMALL | {"num_samples": 100, "warmup": 30}))
    assert found.divergences[0] > 1
    assert not found.trusted.any()
    assert f"{found.divergences[0]} divergences" in str(found)


def test_trust_needs_agreement_in_every_dim_and_few_divergences():
    draws = torch.randn(2, 1000, 4, 2).double()
    values = torch.tensor([[1.0, 1.01], [1.0, 1.011], [1.0, math.nan], [1.0, 1.0]])
    divergences = torch.tensor([2, 0, 0, 3])
    found = ReferencePosterior(
        draws=draws, values={"z": draws}, log_joint=draws[..., 0], r_hat=values.double(), ess_bulk=values,
        ess_tail=values, divergences=divergences, warmup=10,
    )  # fmt: skip
    assert found.trusted.tolist() == [True, False, False, False]


def test_the_same_seed_gives_the_same_draws_and_leaves_the_generator_alone(linear_gaussian):
    x = linear_gaussian.data(2)
    state = torch.get_rng_state()
    one, other = (reference_posterior(linear_gaussian.model, x, **SMALL) for _ in range(2))
    assert torch.equal(one.draws, other.draws)
    assert torch.equal(state, torch.get_rng_state())
    assert len(one.draws[:, :, :, 0].unique()) > 20


def test_other_arguments_are_cut_with_their_datum():
    """A number, a tensor of another length, and a covariate of each datum, in the model and in the graph."""

    def model(x, covariate, table, power):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(covariate, 1e-3).to_event(1))
            pyro.sample("x", dist.Normal(z**power * table[0], 1.0).to_event(1), obs=x)

    covariate = torch.tensor([[5.0], [-7.0], [2.0]]).double()
    table = torch.ones(9).double()
    found = reference_posterior(model, (torch.zeros(3, 1).double(), covariate, table, 2), **SMALL)
    assert ((found.mean - covariate).abs() < 0.05).all()


def test_a_datum_without_a_finite_density_is_flagged_and_the_others_survive():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z / (x > 0), 1.0).to_event(1), obs=x)

    found = reference_posterior(model, torch.tensor([[1.0], [-1.0]]).double(), **SMALL)
    assert found.draws.isfinite().all(0).all(0).flatten().tolist() == [True, False]
    assert found.r_hat.isfinite().flatten().tolist() == [True, False]
    assert not found.trusted[1]


def test_evaluation_mode_and_back():
    model = VAE((1, 2, 2), latent_dim=2, hidden_dims=(4,))
    model.likelihood.extra = nn.Dropout()
    x = torch.rand(1, 1, 2, 2).bernoulli()
    found = reference_posterior(model, x, **SMALL)
    assert found.draws.dtype == torch.float64
    assert "posterior of 1 image in 2 dims" in str(found)
    assert model.likelihood.extra.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def discrete(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)


def no_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0])


def test_bad_input_is_refused(linear_gaussian):
    x = torch.randn(3, 1).double()
    for few in ({"num_chains": 1}, {"num_samples": 3}, {"warmup": 0}):
        with pytest.raises(ValueError, match=r"posterior: \w+ must be at least"):
            reference_posterior(linear_gaussian.model, linear_gaussian.data(1), **(SMALL | few))
    with pytest.raises(ValueError, match=r"_posterior: .*'z' is discrete"):
        reference_posterior(discrete, x, **SMALL)
    with pytest.raises(PairError, match="no batch plate"):
        reference_posterior(no_plate, x, **SMALL)
    with pytest.raises(ValueError, match="x: 3 values are NaN"):
        reference_posterior(linear_gaussian.model, x * math.nan, **SMALL)
    grey = torch.rand(1, 1, 2, 2)
    with pytest.raises((SupportError, ValueError), match=r"support"):
        reference_posterior(VAE((1, 2, 2), latent_dim=2, hidden_dims=(4,)), grey, **SMALL)
