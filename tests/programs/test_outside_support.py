"""Draws of the guide outside the prior's support: their weight is 0, in every evaluation, whatever the validation."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch import nn
from torch.testing import assert_close

from pyro_vae import elbo_terms, evidence_budget, fit, latent_statistics, log_likelihood, log_weights, to_inference_data
from pyro_vae.errors import NonFiniteError
from pyro_vae.objectives import IWAE

DOUBLE = {"dtype": torch.float64}
ONE = torch.ones((), **DOUBLE)

PRIORS = {
    "half_normal": dist.HalfNormal(ONE),
    "exponential": dist.Exponential(ONE),
    "gamma": dist.Gamma(2 * ONE, ONE),
    "log_normal": dist.LogNormal(0 * ONE, ONE),
    "uniform": dist.Uniform(0 * ONE, 2 * ONE),
    "beta": dist.Beta(2 * ONE, 2 * ONE),
    "pareto": dist.Pareto(0.2 * ONE, 3 * ONE),
    "independent": dist.Exponential(ONE).expand([1]).to_event(1),
    "transformed": dist.TransformedDistribution(
        dist.Normal(0 * ONE, ONE), [dist.transforms.AffineTransform(0.1, 1.0), dist.transforms.ExpTransform()]
    ),
}


def pair(prior, decode=lambda z: z):
    """x | z ~ N(decode(z), 0.5^2); the guide is N(0.5, 0.8^2), which knows no bounds."""
    event = prior.event_dim

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior)
            z = z[..., 0] if event else z
            pyro.sample("x", dist.Normal(decode(z), 0.5 * ONE), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * ONE, 0.8 * ONE).expand(x.shape + prior.event_shape).to_event(event))

    return model, guide


def by_hand(prior, z, x, decode=lambda z: z):
    """log w of one number, with -inf outside the support."""
    inside = prior.support.check(z)
    if not inside.all():
        return torch.tensor(-math.inf, **DOUBLE)
    flat = z.reshape(())
    q = dist.Normal(0.5 * ONE, 0.8 * ONE).log_prob(flat)
    return prior.log_prob(z) + dist.Normal(decode(flat), 0.5 * ONE).log_prob(x) - q


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("validate", [True, False])
def test_weights_are_those_by_hand(name, validate, recorder):
    prior = PRIORS[name]
    model, guide = pair(prior)
    guide, x = recorder(guide), torch.tensor([0.3, 1.0, 2.0], **DOUBLE)
    with pyro.validation_enabled(validate):
        for seed in range(3):
            pyro.set_rng_seed(seed)
            found = log_weights(model, guide, x, 20)
            z = guide.values["z"]
            expected = [[by_hand(prior, z[k, n], x[n]) for n in range(3)] for k in range(20)]
            assert_close(found, torch.tensor(expected, **DOUBLE))
    assert (found == -math.inf).any()
    assert found.isfinite().any()


@pytest.mark.parametrize("name", PRIORS)
def test_the_mean_weight_is_the_evidence(name):
    """By a fine grid of z; within 5 standard errors."""
    prior, x = PRIORS[name], torch.tensor([0.3, 1.0, 2.0], **DOUBLE)
    model, guide = pair(prior)
    z = torch.linspace(1e-5, 8, 400_001, **DOUBLE)
    inside = prior.support.check(z.unsqueeze(-1) if prior.event_dim else z).expand(z.shape)
    z = z[inside]
    density = prior.log_prob(z.unsqueeze(-1) if prior.event_dim else z).exp()
    exact = torch.stack([torch.trapezoid(density * dist.Normal(z, 0.5 * ONE).log_prob(v).exp(), z) for v in x]).log()
    found = log_likelihood(model, guide, x, 20_000, seed=0)
    assert ((found.per_datum - exact).abs() < 5 * found.standard_errors).all()


@pytest.mark.parametrize("validate", [True, False])
def test_a_likelihood_that_is_not_defined_there_does_not_matter(validate):
    """Poisson of a negative rate, the square root of a negative scale."""
    x = torch.tensor([0.0, 1.0, 3.0], **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Exponential(ONE))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ONE, ONE).expand(x.shape))

    with pyro.validation_enabled(validate):
        found = log_likelihood(model, guide, x, 20_000, seed=0)
    # p(x) = int e^-z e^-z z^x / x! dz = 2^-(x + 1).
    exact = -(x + 1) * math.log(2)
    assert ((found.per_datum - exact).abs() < 5 * found.standard_errors).all()


def test_a_discrete_latent_beyond_its_categories():
    x = torch.tensor([0.3, 1.0], **DOUBLE)
    probs = torch.tensor([0.2, 0.3, 0.5], **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(probs))
            pyro.sample("x", dist.Normal(k.to(x), ONE), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Poisson(2 * ONE).expand(x.shape))

    for validate in (True, False):
        with pyro.validation_enabled(validate):
            found = log_likelihood(model, guide, x, 20_000, seed=0)
        exact = torch.stack([probs[k].log() + dist.Normal(k * ONE, ONE).log_prob(x) for k in range(3)]).logsumexp(0)
        assert ((found.per_datum - exact).abs() < 5 * found.standard_errors).all()


def test_other_evaluations_count_them_as_zero(recorder):
    model, guide = pair(PRIORS["exponential"])
    x = torch.tensor([0.3, 1.0, 2.0], **DOUBLE)
    terms = elbo_terms(model, guide, x, 50, seed=0)
    assert (terms.elbo.per_datum == -math.inf).all()
    assert (terms.rate.per_datum == math.inf).all()
    budget = evidence_budget(model, guide, x, seed=0)
    assert budget["elbo"].left_out.all()
    assert budget["rate"].left_out.all()
    assert not budget["iwae_5000"].left_out.any()
    found = to_inference_data(model, guide, x, num_samples=50, num_chains=1, seed=0)
    weights = torch.tensor(found["sample_stats"]["log_weight"].values[0])
    z = torch.tensor(found["posterior"]["z"].values[0])
    assert torch.equal(weights == -math.inf, z < 0)
    statistics = latent_statistics(model, guide, x, num_samples=50, seed=0)
    assert statistics.rate.mean == math.inf
    assert statistics.marginal_kl.mean == math.inf


def test_an_importance_weighted_bound_counts_them_as_zero(recorder):
    prior = PRIORS["exponential"]
    model, guide = pair(prior)
    guide, x = recorder(guide), torch.tensor([0.3, 1.0, 2.0], **DOUBLE)
    for validate in (True, False):
        with pyro.validation_enabled(validate):
            loss = IWAE(30).loss(model, guide, x)
        z = guide.values["z"]
        weights = torch.stack([torch.stack([by_hand(prior, z[k, n], x[n]) for n in range(3)]) for k in range(30)])
        assert loss == pytest.approx(-(weights.logsumexp(0) - math.log(30)).sum().item())


class Encoder(nn.Module):
    def __init__(self, loc):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(loc, **DOUBLE))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, 0.5 * ONE).expand(x.shape))


@pytest.mark.parametrize("name", ["half_normal", "exponential", "gamma", "uniform"])
@pytest.mark.parametrize("compile", ["off", "trace"])
@pytest.mark.parametrize("loc", [0.3, 1.2])
def test_training_stops_with_a_line_that_says_so(name, compile, loc):
    """Also where the law, without validation, has a finite density at such values; for any number of draws outside."""
    model, _ = pair(PRIORS[name])
    x = torch.rand(400, **DOUBLE)
    with pytest.raises(
        NonFiniteError,
        match="values of site 'z' outside",
    ):
        fit(model, Encoder(loc), x, epochs=3, batch_size=100, seed=0, compile=compile, progress=False)


def test_a_guide_of_the_same_support_is_trained_and_costs_no_check():
    from pyro_vae.programs.pair import Pair

    class Positive(nn.Module):
        def __init__(self, law):
            super().__init__()
            self.law, self.loc = law, nn.Parameter(torch.zeros((), **DOUBLE))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", self.law(self.loc).expand(x.shape))

    x = torch.rand(40, **DOUBLE)
    model, _ = pair(PRIORS["exponential"])
    for law in (lambda loc: dist.LogNormal(loc, ONE), lambda loc: dist.Gamma(loc.exp(), ONE)):
        assert Pair(model, Positive(law), x).bounded == frozenset()
        run = fit(model, Positive(law), x, objective=Trace_ELBO(), epochs=1, batch_size=20, progress=False)
        assert math.isfinite(run.history[0]["train_bound_nats"])
