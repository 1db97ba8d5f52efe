"""Programs in other people's shape: every evaluation is right, against loops by hand, or refused in words."""

import math
import traceback
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.util import site_is_subsample
from third_party import PROGRAMS, scanvi
from torch.testing import assert_close

import pyro_vae
from pyro_vae.errors import PairError
from pyro_vae.evaluation import linear_probe

EXACT = {"rtol": 1e-8, "atol": 1e-8}
DISCRETE = {"M2", "scANVI", "AIR", "jVAE"}
"""Those that draw a label, or whether an object is there."""


@pytest.fixture(autouse=True)
def double():
    """The programs make their constants in the default dtype, as their authors do."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=PROGRAMS)
def name(request):
    return request.param


@pytest.fixture
def third(name):
    return PROGRAMS[name]()


def drawn(trace):
    names = [name for name in trace.stochastic_nodes if not site_is_subsample(trace.nodes[name])]
    return {name: trace.nodes[name]["value"].detach() for name in names}


def weights_by_hand(third, num_samples):
    """Independent draws of the guide, one run each, ``(num_samples, N)``."""
    with torch.no_grad():
        runs = [poutine.trace(third.guide).get_trace(*third.args) for _ in range(num_samples)]
        return torch.stack([third.by_hand(drawn(run)) for run in runs])


class EachRun:
    """A guide that keeps the values of every run."""

    def __init__(self, guide):
        self.guide, self.runs = guide, []

    def __call__(self, *args):
        with poutine.trace() as recorded:
            result = self.guide(*args)
        self.runs.append(drawn(recorded.trace))
        return result

    def samples(self, num_samples, n):
        """The values of the last samples, each of N data: of one run for all, or one run each."""
        last = self.runs[-1]
        value = next(iter(last.values()))
        if value.shape[0] == num_samples * n:
            last = {name: v.reshape(num_samples, n, *v.shape[1:]) for name, v in last.items()}
            value = next(iter(last.values()))
        if value.shape[:2] == (num_samples, n):
            return [{name: v[k] for name, v in last.items()} for k in range(num_samples)]
        return self.runs[-num_samples:]


def test_the_weights_of_one_draw(third):
    path = poutine.trace(third.guide).get_trace(*third.args)
    found = pyro_vae.log_weights(third.model, poutine.replay(third.guide, trace=path), third.x)
    assert_close(found[0].detach(), third.by_hand(drawn(path)).detach(), **EXACT)


def test_the_weights_of_several_draws(third):
    guide = EachRun(third.guide)
    found = pyro_vae.log_weights(third.model, guide, third.x, num_samples=3)
    by_hand = torch.stack([third.by_hand(values) for values in guide.samples(3, len(third.args[0]))])
    assert_close(found.detach(), by_hand.detach(), **EXACT)


def test_log_likelihood_and_elbo(third):
    """Against 200 draws by hand: z-scores of both means below 4.5, of each datum."""
    by_hand = weights_by_hand(third, 200)
    found = pyro_vae.log_likelihood(third.model, third.guide, third.x, 400, seed=3)
    share = (by_hand - by_hand.logsumexp(0)).exp()
    error = (200 * (share - 1 / 200).square().sum(0) / 199).sqrt()
    difference = found.per_datum - (by_hand.logsumexp(0) - math.log(200))
    assert (difference.abs() < 4.5 * (error.square() + found.standard_errors.square()).sqrt() + 1e-9).all()
    terms = pyro_vae.elbo_terms(third.model, third.guide, third.x, 400, seed=4)
    spread = (by_hand.var(0) / 200 + terms.elbo.standard_errors.square()).sqrt()
    assert ((terms.elbo.per_datum - by_hand.mean(0)).abs() < 4.5 * spread + 1e-9).all()


# Every other evaluation


AIS = {"num_temperatures": 50, "num_chains": 8, "num_leapfrog": 2, "burn_in": 20, "seed": 0, "progress": False}
NUTS = {"num_chains": 2, "num_samples": 20, "warmup": 20, "seed": 0, "progress": False}


def gaps(third):
    return pyro_vae.inference_gaps(
        third.model, third.guide, third.x, num_samples=200, evidence_samples=2000, max_steps=50, seed=0, progress=False
    )


def reference(third):
    return pyro_vae.reference_posterior(third.model, third.x, **NUTS)


def ais(third):
    return pyro_vae.ais(third.model, third.x, guide=third.guide, **AIS)


def bdmc(third):
    return pyro_vae.bdmc(third.model, third.x, guide=third.guide, **AIS)


def calibration(third):
    return pyro_vae.sbc(third.model, third.guide, third.x, num_data=30, num_draws=19, seed=0, progress=False)


def probe(third):
    labels = torch.arange(len(third.args[0])) % 2
    return linear_probe(third.guide, third.x, labels, third.x, labels, seed=0)


def in_words(error):
    """A sentence of the package's own: neither a size error of torch nor a dump of tensors."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    package = Path(pyro_vae.__file__).parent
    text = str(error)
    return package in Path(last.filename).parents and "\n" not in text and "tensor(" not in text and len(text) < 500


@pytest.mark.parametrize("evaluation", [gaps, ais, bdmc, reference, calibration], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", sorted(DISCRETE))
def test_what_needs_a_gradient_in_z_refuses_discrete_sites_by_name(name, evaluation):
    with pytest.raises(ValueError, match=r"'(y|z_pres_0)' is discrete") as caught:
        evaluation(PROGRAMS[name]())
    assert in_words(caught.value)


@pytest.mark.parametrize("evaluation", [bdmc, calibration], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", sorted(name for name in PROGRAMS if "labels" in name))
def test_what_draws_data_refuses_models_of_two_observed_sites(name, evaluation):
    with pytest.raises(ValueError, match="observe one site of the data's") as caught:
        evaluation(PROGRAMS[name]())
    assert in_words(caught.value)


def test_latent_statistics(third):
    """Rate and distortion make the ELBO of draws by hand: the mean over data within 4.5 standard errors of both."""
    found = pyro_vae.latent_statistics(third.model, third.guide, third.x, num_samples=200, seed=0, progress=False)
    by_hand = weights_by_hand(third, 100)
    terms = pyro_vae.elbo_terms(third.model, third.guide, third.x, 200, seed=0)
    spread = math.sqrt(by_hand.var(0).mean() / (100 * by_hand.shape[1]) + terms.elbo.standard_error**2)
    assert -(found.rate.mean + found.distortion.mean) == pytest.approx(by_hand.mean().item(), abs=4.5 * spread)


def test_active_units_and_a_probe(third):
    """One unit for each element of each latent site; a probe on as many."""
    draws = drawn(poutine.trace(third.guide).get_trace(*third.args))
    units = sum(value.shape[-1] for value in draws.values())
    found = pyro_vae.active_units(third.guide, third.x)
    assert found.variance.shape == (units,)
    assert found.variance.isfinite().all()
    probed = probe(third)
    assert probed.latent_dim == units
    assert len(probed.accuracy.per_datum) == len(third.args[0])


def test_inference_data_holds_draws_of_which_the_weights_are_those_by_hand(third):
    found = pyro_vae.to_inference_data(
        third.model, third.guide, third.x, num_samples=2, num_chains=2, seed=0, progress=False
    )
    posterior, weights = found["posterior"], found["sample_stats"]["log_weight"]
    for chain in range(2):
        for draw in range(2):
            values = {
                name: torch.as_tensor(posterior[name].sel(chain=chain, draw=draw).values.copy())
                for name in posterior.data_vars
            }
            by_hand = third.by_hand(values).detach()
            assert_close(torch.as_tensor(weights.sel(chain=chain, draw=draw).values.copy()), by_hand, **EXACT)


def test_two_epochs_of_fit(third):
    """Parameters move, the bound is a number, and weights are still those by hand."""
    before = [p.detach().clone() for network in third.networks for p in network.parameters()]
    run = pyro_vae.fit(
        third.model, third.guide, third.x, objective=Trace_ELBO(), epochs=2, batch_size=3, seed=0, progress=False,
        compile="off",
    )  # fmt: skip
    after = [p.detach() for network in third.networks for p in network.parameters()]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    assert all(math.isfinite(row["train_bound_nats"]) for row in run.history)
    for network in third.networks:
        network.eval()
    path = poutine.trace(third.guide).get_trace(*third.args)
    found = pyro_vae.log_weights(third.model, poutine.replay(third.guide, trace=path), third.x)
    assert_close(found[0].detach(), third.by_hand(drawn(path)).detach(), **EXACT)


def test_a_classification_loss_in_the_guide_is_no_density():
    """scANVI adds it by `pyro.factor`; without it the weights are those of the tests above."""
    third = scanvi(labels=True, classification=10.0)
    with pytest.raises(PairError, match="classification_loss") as caught:
        pyro_vae.log_weights(third.model, third.guide, third.x)
    assert in_words(caught.value)
    path = poutine.trace(third.guide).get_trace(*third.args)
    path.nodes.pop("classification_loss")
    guide = poutine.replay(poutine.block(third.guide, hide=["classification_loss"]), trace=path)
    found = pyro_vae.log_weights(third.model, guide, third.x)
    assert_close(found[0].detach(), third.by_hand(drawn(path)).detach(), **EXACT)


CONTINUOUS = sorted(set(PROGRAMS) - DISCRETE)


def integral(third, num_nodes):
    """log p(x) of each datum by Gauss-Hermite quadrature over three standard normal latents."""
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(num_nodes))
    z = torch.cartesian_prod(nodes, nodes, nodes)
    log_weight = torch.cartesian_prod(*[(weights / weights.sum()).log()] * 3).sum(-1)
    with torch.no_grad():
        return torch.stack([(log_weight + third.log_x(doc, z)).logsumexp(0) for doc in third.args[0]])


def test_the_evidence_of_prod_lda_is_its_integral():
    """Its guide is far too narrow, which each estimate with it says; without it, the integral over three topics."""
    third = PROGRAMS["ProdLDA"]()
    exact = integral(third, 24)
    assert_close(exact, integral(third, 30), rtol=0, atol=1e-9)
    quick = {**AIS, "num_temperatures": 40, "num_chains": 32}
    annealed = pyro_vae.ais(third.model, third.x, **quick, compile="off")
    assert annealed.standard_errors.max() < 0.1
    # The log of an average lies below by half its variance, at 0.1 nats 0.005.
    assert ((annealed.per_datum - exact).abs() < 4.5 * annealed.standard_errors + 0.005).all()

    def prior(docs):
        with pyro.plate("documents", len(docs)):
            pyro.sample("logtheta", dist.Normal(docs.new_zeros(3), 1.0).expand([len(docs), 3]).to_event(1))

    found = pyro_vae.log_likelihood(third.model, prior, third.x, 5000, seed=1)
    assert not found.flagged.any()
    assert ((found.per_datum - exact).abs() < 4.5 * found.standard_errors + 0.005).all()
    assert pyro_vae.log_likelihood(third.model, third.guide, third.x, 500, seed=1).flagged.all()


@pytest.mark.slow
def test_the_gaps_of_prod_lda_against_the_integral():
    """No source of its evidence is dependable, which is said; all are bounds, and the ELBO is that of other draws."""
    third = PROGRAMS["ProdLDA"]()
    found = gaps(third)
    assert found.doubtful.all()
    assert (found.log_likelihood.per_datum < integral(third, 24) + 4.5 * found.log_likelihood.standard_errors).all()
    terms = pyro_vae.elbo_terms(third.model, third.guide, third.x, 2000, seed=2)
    spread = (terms.elbo.standard_errors.square() * (1 + 2000 / 200)).sqrt()
    assert ((found.elbo.per_datum - terms.elbo.per_datum).abs() < 4.5 * spread + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "ProdLDA"])
def test_gaps_and_annealing_agree_with_the_weights(name):
    """With 5000 weights, whose evidence the tests above hold against draws by hand: within 4.5 standard errors; the
    log of an average of 8 chains lies below by half their variance, for which 0.05 nats are allowed."""
    third = PROGRAMS[name]()
    evidence = pyro_vae.log_likelihood(third.model, third.guide, third.x, 5000, seed=1)
    dependable = (evidence.pareto_k < 0.7) & (evidence.standard_errors < 0.3)
    assert dependable.any()
    found = gaps(third)
    errors = (found.log_likelihood.standard_errors.square() + evidence.standard_errors.square()).sqrt()
    assert ((found.log_likelihood.per_datum - evidence.per_datum).abs() < 4.5 * errors + 1e-6)[dependable].all()
    terms = pyro_vae.elbo_terms(third.model, third.guide, third.x, 2000, seed=2)
    spread = (terms.elbo.standard_errors.square() * (1 + 2000 / 200)).sqrt()
    assert ((found.elbo.per_datum - terms.elbo.per_datum).abs() < 4.5 * spread + 1e-6).all()
    annealed = ais(third)
    errors = (annealed.standard_errors.square() + evidence.standard_errors.square()).sqrt()
    assert ((annealed.per_datum - evidence.per_datum).abs() < 4.5 * errors + 0.05)[dependable].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONTINUOUS if "labels" not in name])
def test_bounds_of_simulated_data_and_ranks(name):
    third = PROGRAMS[name]()
    found = bdmc(third)
    error = (found.lower.standard_errors.square() + found.upper.standard_errors.square()).sqrt()
    assert (found.lower.per_datum < found.upper.per_datum + 4.5 * error).all()
    ranks = calibration(third).ranks
    assert ranks.shape[0] == 30
    assert ((ranks >= 0) & (ranks <= 19)).all()


@pytest.mark.slow
def test_nuts_finds_the_means_that_weights_find():
    """Of M2 with labels, 2 data: posterior means of z within 4.5 standard errors of weighted draws by hand."""
    third = PROGRAMS["M2 with labels"]()
    x = tuple(arg[:2] for arg in third.args)
    found = pyro_vae.reference_posterior(
        third.model, x, num_chains=4, num_samples=300, warmup=200, seed=0, progress=False
    )
    with torch.no_grad():
        runs = [drawn(poutine.trace(third.guide).get_trace(*third.args)) for _ in range(3000)]
        weights = torch.stack([third.by_hand(run) for run in runs])[:, :2].softmax(0)
    z = torch.stack([run["z"] for run in runs])[:, :2]
    mean = (weights[..., None] * z).sum(0)
    error = (weights[..., None].square() * (z - mean).square()).sum(0).sqrt()
    draws = found.values["z"].flatten(0, 1) if found.values["z"].ndim == 4 else found.values["z"]
    nuts_error = draws.std(0) / 300**0.5
    assert ((draws.mean(0) - mean).abs() < 4.5 * (error.square() + nuts_error.square()).sqrt()).all()
