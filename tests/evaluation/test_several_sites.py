"""Every evaluation on pairs with several latent sites, none named "z", which model and guide sample in other orders."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_vae.evaluation import (
    active_units,
    ais,
    bdmc,
    elbo_terms,
    evidence_budget,
    guide_error,
    inference_gaps,
    latent_statistics,
    linear_probe,
    log_likelihood,
    reference_posterior,
    sbc,
    to_inference_data,
)

X = torch.tensor([[1.0], [-0.5], [2.0]]).double()


class Layers:
    """Two linear Gaussian layers; the guide is the posterior, and the evidence is that of N(0, 2)."""

    names = ("bottom", "top")
    units = ("bottom[0]", "top[0]")

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(0.8 * top, 0.6).to_event(1))
            pyro.sample("seen", dist.Normal(bottom, 1.0).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            bottom = pyro.sample("bottom", dist.Normal(x / 2, math.sqrt(0.5)).to_event(1))
            pyro.sample("top", dist.Normal(0.8 * bottom, 0.6).to_event(1))


class Shapes:
    """A scalar, a matrix and a positive site, independent a priori."""

    names = ("scale", "matrix", "scalar")
    units = ("scale[0]", "matrix[0]", "matrix[1]", "matrix[2]", "matrix[3]", "scalar[0]")

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            scalar = pyro.sample("scalar", dist.Normal(torch.zeros(()).double(), 1.0))
            matrix = pyro.sample("matrix", dist.Normal(torch.zeros(2, 2).double(), 1.0).to_event(2))
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()).double(), 0.5))
            loc = scalar + matrix.sum((-1, -2))
            pyro.sample("seen", dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("scale", dist.LogNormal(0.1 * x[:, 0], 0.4))
            pyro.sample("matrix", dist.Normal(0.1 * x.unsqueeze(-1).expand(-1, 2, 2), 0.9).to_event(2))
            pyro.sample("scalar", dist.Normal(0.1 * x[:, 0], 0.9))


def test_the_posterior_of_two_layers_has_the_exact_evidence_in_the_other_order():
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(X[:, 0])
    found = log_likelihood(Layers.model, Layers.guide, X, num_samples=20, seed=0)
    torch.testing.assert_close(found.per_datum, exact)
    terms = elbo_terms(Layers.model, Layers.guide, X, 10, seed=0)
    torch.testing.assert_close(terms.elbo.per_datum, exact)


@pytest.fixture(params=[Layers, Shapes], ids=["layers", "shapes"])
def pair(request):
    return request.param


def test_units_are_told_by_site(pair):
    units = active_units(pair.guide, X, num_samples=20)
    assert units.units == pair.units
    assert tuple(units.by_site) == pair.names
    statistics = latent_statistics(pair.model, pair.guide, X, num_samples=20, seed=0)
    assert statistics.units == pair.units
    assert tuple(statistics.rate_by_site) == pair.names
    assert statistics.why_not == {}
    assert statistics.no_kl == (("bottom",) if pair is Layers else ())
    assert sum(part.mean for part in statistics.rate_by_site.values()) == pytest.approx(statistics.rate.mean)
    summary = statistics.summary()
    assert [name for name in summary if name.startswith("rate[")] == [f"rate[{name}]" for name in pair.names]


def test_labels_are_predicted_from_all_sites_or_one(pair):
    x = torch.linspace(-3, 3, 40).double().unsqueeze(1)
    labels = (x[:, 0] > 0).long()
    probe = linear_probe(pair.guide, x, labels, x, labels, seed=0)
    assert probe.latent_dim == len(pair.units)
    assert probe.accuracy.mean > 0.9
    assert linear_probe(pair.guide, x, labels, x, labels, site=pair.names[-1], seed=0).latent_dim == 1


def test_annealing_moves_all_sites(pair):
    few = {"num_temperatures": 30, "num_chains": 8, "seed": 0, "progress": False}
    found = ais(pair.model, X, guide=pair.guide, **few)
    reference = log_likelihood(pair.model, pair.guide, X, num_samples=20_000, seed=0)
    noise = (found.standard_errors.square() + reference.standard_errors.square()).sqrt()
    assert ((found.per_datum - reference.per_datum).abs() < 5 * noise + 0.01).all()
    assert bdmc(pair.model, X, **few).width.per_datum.isfinite().all()


def test_gaps_have_a_q_of_all_sites(pair):
    gaps = inference_gaps(
        pair.model, pair.guide, X, num_samples=50, evidence_samples=50, max_steps=5, seed=0, progress=False
    )  # fmt: skip
    assert gaps.inference_gap.per_datum.isfinite().all()
    budget = evidence_budget(pair.model, pair.guide, X, ks=(1, 10), gaps=gaps, seed=0, progress=False)
    assert "ELBO" in str(budget)


def test_a_reference_has_the_draws_of_each_site(pair):
    reference = reference_posterior(pair.model, X[:1], num_chains=2, num_samples=20, warmup=20, seed=0, progress=False)
    assert set(reference.values) == set(pair.names)
    assert reference.draws.shape[-1] == len(pair.units)


@pytest.mark.slow
def test_the_posterior_as_a_guide_has_no_error():
    reference = reference_posterior(
        Layers.model, X[:1], num_chains=4, num_samples=400, warmup=200, seed=0, progress=False
    )  # fmt: skip
    error = guide_error(reference, Layers.model, Layers.guide, X[:1], num_samples=200, num_permutations=99, seed=0)
    assert error.guide_draws.shape == (200, 1, 2)
    assert (error.kl.per_datum.abs() < 5 * error.kl.standard_errors + 1e-6).all()


def test_calibration_ranks_each_unit(pair):
    calibration = sbc(pair.model, pair.guide, X, num_data=20, num_draws=9, seed=0, progress=False)
    assert len(calibration.p_values) == len(pair.units)


def test_arviz_is_given_each_site(pair):
    data = to_inference_data(pair.model, pair.guide, X, num_samples=5, num_chains=2, seed=0, progress=False)
    assert set(pair.names) <= set(data.posterior.data_vars)


class Categories:
    """A category beside a number."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            size = pyro.sample("size", dist.Normal(torch.zeros(()).double(), 1.0))
            kind = pyro.sample("kind", dist.Categorical(torch.ones(3).double()))
            pyro.sample("seen", dist.Normal((size + kind).unsqueeze(-1), 1.0).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("kind", dist.Categorical(torch.ones(len(x), 3).double()))
            pyro.sample("size", dist.Normal(0.5 * x[:, 0], 0.8))


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda: ais(Categories.model, X),
        lambda: bdmc(Categories.model, X),
        lambda: reference_posterior(Categories.model, X[:1]),
        lambda: inference_gaps(Categories.model, Categories.guide, X),
        lambda: sbc(Categories.model, Categories.guide, X),
    ],
    ids=["ais", "bdmc", "reference_posterior", "inference_gaps", "sbc"],
)
def test_a_gradient_in_a_category_is_refused_by_name(evaluate):
    with pytest.raises(ValueError, match=r"'kind'.*discrete"):
        evaluate()


def test_a_category_has_evidence_and_statistics():
    found = log_likelihood(Categories.model, Categories.guide, X, num_samples=4000, seed=0)
    # A mixture of three normals, by enumeration.
    kinds = torch.arange(3.0).double()
    exact = (dist.Normal(kinds, math.sqrt(2.0)).log_prob(X) - math.log(3)).logsumexp(1)
    assert ((found.per_datum - exact).abs() < 5 * found.standard_errors).all()
    statistics = latent_statistics(Categories.model, Categories.guide, X, num_samples=20, seed=0)
    assert set(statistics.rate_by_site) == {"kind", "size"}
