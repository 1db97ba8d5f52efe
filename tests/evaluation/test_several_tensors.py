"""Every evaluation of data of several tensors, against a conditional model whose evidence log p(x | y) is known.

x = W z + B y + noise of variance 1/4, z standard normal, y a class: log p(x | y) = log N(x; B y, W W' + I / 4). The
guide is the posterior given x and y, so that every weight is the evidence; without y it would be another law.
"""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae.evaluation import guide_error, linear_probe, reference_posterior, sbc

NOISE = 0.25
N = 24


class Conditional(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 2, generator=generator, dtype=torch.float64))
        self.shift = nn.Parameter(2 * torch.randn(3, 4, generator=generator, dtype=torch.float64))

    def evidence(self, y: Tensor) -> dist.MultivariateNormal:
        covariance = self.weight @ self.weight.T + NOISE * torch.eye(4, dtype=torch.float64)
        return dist.MultivariateNormal(self.shift[y], covariance)

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("code", dist.Normal(self.weight.new_zeros(2), 1.0).to_event(1))
            loc = z @ self.weight.T + self.shift[y]
            pyro.sample("x", dist.Normal(loc, NOISE**0.5).to_event(1), obs=x)


class Posterior(PyroModule):
    def __init__(self, model: Conditional) -> None:
        super().__init__()
        self._models = (model,)

    def posterior(self, x: Tensor, y: Tensor) -> dist.MultivariateNormal:
        (model,) = self._models
        precision = torch.eye(2, dtype=torch.float64) + model.weight.T @ model.weight / NOISE
        loc = torch.linalg.solve(precision, ((x - model.shift[y]) @ model.weight / NOISE).unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("code", self.posterior(x, y))


@pytest.fixture(scope="module")
def pair():
    """Model, exact guide, data and their evidence."""
    model = Conditional()
    y = torch.arange(N) % 3
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        x = model.evidence(y).sample()
        return model, Posterior(model), (x, y), model.evidence(y).log_prob(x)


def test_log_weights(pair):
    model, guide, data, evidence = pair
    torch.testing.assert_close(pyro_vae.log_weights(model, guide, data, 5).detach(), evidence.expand(5, N))


@pytest.mark.parametrize("compile", ["off", "trace"])
def test_log_likelihood(pair, compile):
    model, guide, data, evidence = pair
    found = pyro_vae.log_likelihood(model, guide, data, 20, seed=0, compile=compile)
    torch.testing.assert_close(found.per_datum, evidence)


def test_elbo_terms_and_budget(pair):
    model, guide, data, evidence = pair
    terms = pyro_vae.elbo_terms(model, guide, data, 20, seed=0)
    torch.testing.assert_close(terms.elbo.per_datum, evidence)
    budget = pyro_vae.evidence_budget(model, guide, data, ks=(1, 5), seed=0)
    assert str(budget)


def test_no_gap_is_left(pair):
    model, guide, data, _ = pair
    gaps = pyro_vae.inference_gaps(model, guide, data, num_samples=200, evidence_samples=200, max_steps=50, seed=0)
    assert gaps.inference_gap.per_datum.abs().max() < 1e-9


def test_annealing(pair):
    """The evidence lies between both bounds of BDMC, up to 4 standard errors; AIS finds it up to 5."""
    model, _, data, evidence = pair
    few = tuple(column[:4] for column in data)
    found = pyro_vae.ais(model, few, num_temperatures=100, num_chains=16, burn_in=20, seed=0)
    z = (found.per_datum - evidence[:4]) / found.standard_errors
    assert z.abs().max() < 5
    sandwich = pyro_vae.bdmc(model, few, num_temperatures=50, num_chains=4, burn_in=5, seed=0)
    assert str(sandwich)


@pytest.mark.slow
def test_reference_posterior_and_the_guides_error(pair):
    """Four chains find the exact posterior: the guide's mean errors are below 5 standard errors, the KL is 0."""
    model, guide, data, evidence = pair
    few = tuple(column[:2] for column in data)
    reference = reference_posterior(model, few, num_samples=200, warmup=150, seed=0)
    error = guide_error(reference, model, guide, few, num_samples=300, num_permutations=99, seed=0)
    assert (error.mean_error / error.mean_standard_errors).abs().max() < 5
    assert error.kl.per_datum.abs().max() < 1e-9
    torch.testing.assert_close(error.log_likelihood.per_datum, evidence[:2])


def test_calibration(pair):
    """Ranks of an exact posterior are uniform: x is drawn anew, y is the data's."""
    model, guide, data, _ = pair
    assert sbc(model, guide, data, num_data=480, num_draws=15, seed=0).p_values.min() > 1e-3


def test_latents(pair):
    """Means of z given x and y tell nothing of y; both units are active."""
    model, guide, data, _ = pair
    assert pyro_vae.active_units(guide, data).count == 2
    assert str(pyro_vae.latent_statistics(model, guide, data, seed=0))
    labels = data[1]
    assert str(linear_probe(guide, data, labels, data, labels, seed=0))
    assert pyro_vae.to_inference_data(model, guide, data, num_samples=5, num_chains=2, seed=0) is not None


def test_a_tensor_too_few_is_an_error(pair):
    model, guide, (x, _), _ = pair
    for call in (
        lambda: pyro_vae.log_likelihood(model, guide, x, 5),
        lambda: pyro_vae.elbo_terms(model, guide, x, 5),
        lambda: pyro_vae.active_units(guide, x),
        lambda: pyro_vae.latent_statistics(model, guide, x),
    ):
        with pytest.raises(pyro_vae.errors.PairError, match="cannot be called with the data"):
            call()
