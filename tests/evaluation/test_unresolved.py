"""Every evaluation of data that float32 cannot resolve: it says so, and float64 gives the exact numbers.

The model is probabilistic PCA, the guide its posterior in a width that is off, and all truths are closed.
"""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_vae import (
    ais,
    bdmc,
    elbo_terms,
    evidence_budget,
    inference_gaps,
    latent_statistics,
    log_likelihood,
    log_weights,
    reference_posterior,
    sbc,
    to_inference_data,
)
from pyro_vae.evaluation import guide_error
from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.evaluation.reference.chain_diagnostics import ess
from pyro_vae.evaluation.reference.nuts import log_joint_at
from pyro_vae.evaluation.reference.reference_posterior import ReferencePosterior
from pyro_vae.models import LinearGaussian
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.precision import UNRESOLVED

DIMS, N = 30, 3
STRETCH = 1.1
"""Of the guide's standard deviations."""

WITHIN = 0.15
"""Nats that a number said to be fine may be off by, beside 5 standard errors: roundings of 0.1, and bias."""


class Case:
    """x = W z + b + noise with b near an offset, and data off by a spread; all parameters are float32 numbers."""

    def __init__(self, dtype, offset, spread, n=N):
        generator = torch.Generator().manual_seed(3)
        loadings, bias, noise = (torch.randn(*size, generator=generator) for size in ((DIMS, 2), (DIMS,), (n, DIMS)))
        bias = offset * (1.5 + bias.clamp(-1, 1) / 2)
        self.x = (bias + torch.as_tensor(spread) * noise).to(dtype)
        self.dtype = dtype
        self.exact = LinearGaussian.from_values(loadings.double(), bias.double(), 1.0).requires_grad_(False)
        self.model = LinearGaussian.from_values(loadings.to(dtype), bias.to(dtype), 1.0).requires_grad_(False)
        self.settle()

    def settle(self):
        """Work out the truth of the data as they are."""
        weights, residual = self.exact.loadings, self.x.double() - self.exact.bias
        precision = weights.T @ weights + torch.eye(2).double()
        at = residual @ weights
        quadratic = residual.square().sum(-1) - (at * torch.linalg.solve(precision, at.T).T).sum(-1)
        self.evidence = -0.5 * (quadratic + DIMS * math.log(2 * math.pi) + precision.logdet())
        sd = STRETCH * precision.inverse().diagonal().sqrt()
        self.gap = 0.5 * ((sd.square() * precision.diagonal()).sum() - 2 - precision.logdet() - 2 * sd.log().sum())
        self.elbo = self.evidence - self.gap
        mean = torch.linalg.solve(precision, at.T).T
        self.rate = (mean.square().sum(-1) + sd.square().sum() - 2 - 2 * sd.log().sum()) / 2

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            p = self.exact.posterior(x.double())
            sd = STRETCH * p.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
            pyro.sample("z", dist.Normal(p.mean.to(self.dtype), sd.to(self.dtype)).to_event(1))


def of_log_likelihood(case):
    found = log_likelihood(case.model, case.guide, case.x, 100, seed=0, compile="off")
    return found.per_datum - case.evidence, found.standard_errors, found.unresolved, found


def of_a_few_weights(case):
    """No k-hat is to be had of these."""
    found = log_likelihood(case.model, case.guide, case.x, 20, seed=0, compile="off")
    return found.per_datum - case.evidence, found.standard_errors, found.unresolved, found


def of_a_target(case):
    found = log_likelihood(case.model, case.guide, case.x, 400, target_se=0.05, seed=0, compile="off")
    return found.per_datum - case.evidence, found.standard_errors, found.unresolved, found


def of_elbo_terms(case):
    found = elbo_terms(case.model, case.guide, case.x, 100, seed=0, compile="off")
    return found.elbo.per_datum - case.elbo, found.elbo.standard_errors, found.unresolved, found


def of_evidence_budget(case):
    found = evidence_budget(case.model, case.guide, case.x, ks=(1, 20), seed=0, compile="off")
    term = found["iwae_20"]
    return term.per_datum - case.evidence, term.standard_errors, found.unresolved, found


def of_inference_gaps(case):
    found = inference_gaps(
        case.model, case.guide, case.x, family="diagonal", num_samples=100, evidence_samples=100, step_samples=8,
        seed=0, max_steps=2, check_every=2,
    )  # fmt: skip
    lost = torch.full((N,), found.num_unresolved == N)
    return found.inference_gap.per_datum - case.gap, found.inference_gap.standard_errors, lost, found


def of_ais(case):
    found = ais(
        case.model, case.x, guide=case.guide, num_temperatures=5, num_chains=8, num_leapfrog=2, burn_in=3, seed=0,
        compile="off",
    )  # fmt: skip
    assert torch.equal(found.per_datum.isnan(), found.unresolved)
    return found.per_datum - case.evidence, found.standard_errors, found.unresolved, found


def of_bdmc(case):
    """The data are the model's own, so that roundings are those of the offset alone."""
    found = bdmc(
        case.model, case.x, guide=case.guide, num_temperatures=5, num_chains=8, num_leapfrog=2, burn_in=3, seed=0,
        compile="off",
    )  # fmt: skip
    drawn = found.data.double()
    truth = case.exact.evidence().log_prob(drawn)
    off = torch.stack([found.lower.per_datum, found.upper.per_datum]) - truth
    return off, found.width.standard_errors, found.unresolved, found


def of_latent_statistics(case):
    found = latent_statistics(case.model, case.guide, case.x, num_samples=50, seed=0)
    of_elbo = -found.distortion.per_datum - found.rate.per_datum - case.elbo
    error_of_elbo = torch.hypot(found.rate.standard_errors, found.distortion.standard_errors)
    off = (found.rate.per_datum - case.rate).abs()
    assert (off < 5 * found.rate.standard_errors + WITHIN)[~found.unresolved].all()
    return of_elbo, error_of_elbo, found.unresolved, found


def of_to_inference_data(case, caplog=None):
    found = to_inference_data(case.model, case.guide, case.x, num_samples=30, num_chains=1, seed=0)
    stats = found["sample_stats"]
    weights = torch.from_numpy(stats["log_weight"].values)[0].double()
    lost = torch.from_numpy(stats["unresolved"].values)
    return weights.mean(0) - case.elbo, weights.std(0) / 30**0.5, lost, UNRESOLVED if lost.any() else ""


EVALUATIONS = {
    function.__name__.removeprefix("of_"): function
    for function in (
        of_log_likelihood, of_a_few_weights, of_a_target, of_elbo_terms, of_evidence_budget, of_inference_gaps, of_ais,
        of_bdmc, of_latent_statistics, of_to_inference_data,
    )
}  # fmt: skip


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", EVALUATIONS)
@pytest.mark.parametrize(
    ("offset", "spread"),
    [(0.0, 1.0), (1e5, 1e4), *(pytest.param(*sizes, marks=SLOW) for sizes in ((0.0, 1e3), (1e4, 1e2), (1e6, 1.0)))],
)
def test_a_number_is_right_or_said_to_be_lost(name, offset, spread):
    """From ordinary data to log p(x) of billions of nats; the last case is small, with an offset that swallows it."""
    case = Case(torch.float64, offset, spread)
    off, error, lost, found = EVALUATIONS[name](case)
    assert not lost.any()
    assert UNRESOLVED not in str(found)
    assert (off.abs() < 5 * error + WITHIN).all()
    off, error, lost, found = EVALUATIONS[name](Case(torch.float32, offset, spread))
    assert (off.abs() < 5 * error + WITHIN)[..., ~lost].all()
    assert (UNRESOLVED in str(found)) == bool(lost.any())
    if hasattr(found, "summary"):
        assert found.summary()["num_unresolved"] == lost.sum()
    if spread == 1e4 and name != "bdmc":
        assert lost.all()
    if offset == 0.0 and spread == 1.0:
        assert not lost.any()


@pytest.mark.parametrize("name", [name for name in EVALUATIONS if name not in ("bdmc", "inference_gaps")])
@pytest.mark.parametrize("how", ["far", pytest.param("mirrored", marks=SLOW)])
def test_one_behind_the_first_that_float32_cannot_resolve(name, how):
    """The pair is made with the first 127 data; another one is far larger, or as large and far from the model."""
    case = Case(torch.float32, 1e3, 1.0, n=129)
    case.x[128] = 50 * case.x[128] if how == "far" else -case.x[128]
    case.settle()
    off, error, lost, found = EVALUATIONS[name](case)
    assert lost[128]
    assert not lost[:128].any()
    assert (off.abs() < 5 * error + WITHIN)[:128].all()
    assert UNRESOLVED in str(found)


@SLOW
def test_gaps_of_one_behind_the_first():
    case = Case(torch.float32, 1e4, 1.0, n=129)
    options = {"family": "diagonal", "num_samples": 20, "evidence_samples": 20, "max_steps": 2, "check_every": 2}
    assert inference_gaps(case.model, case.guide, case.x, **options, seed=0).num_unresolved == 0
    case.x[128] *= 50
    assert inference_gaps(case.model, case.guide, case.x, **options, seed=0).num_unresolved == 1


def prior(x):
    """A guide that looks at nothing."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def test_data_behind_the_first_are_computed_in_float64_where_that_is_all_they_need():
    """log p(x | z) of ten millions, of which a float32 sum loses whole nats, with parameters that lose a thousandth.

    E log N(x; W z + b, 1) = -(|x - b|^2 + |W|^2 + dims log 2 pi) / 2 under the prior.
    """
    case = Case(torch.float32, 0.0, 1.0, n=129)
    case.x[128] *= 1e3
    model, x, bias = case.model, case.x, case.exact.bias
    squares = (x.double() - bias).square().sum(-1) + case.exact.loadings.square().sum()
    exact = -(squares + DIMS * math.log(2 * math.pi)) / 2
    terms = elbo_terms(model, prior, x, 100, seed=0, compile="off")
    statistics = latent_statistics(model, prior, x, num_samples=100, seed=0)
    weights = to_inference_data(
        model, prior, x, num_samples=100, num_chains=1, groups=["sample_stats"], seed=0
    )["sample_stats"]["log_weight"].values[0]  # fmt: skip
    assert exact[128] < -5e6
    assert not terms.unresolved.any()
    assert not statistics.unresolved.any()
    weights = torch.from_numpy(weights)
    for found, error in (
        (terms.elbo.per_datum, terms.elbo.standard_errors),
        (-statistics.distortion.per_datum, statistics.distortion.standard_errors),
        (weights.mean(0), (weights.var(0) / 100).sqrt()),
    ):
        assert ((found - exact).abs() < 5 * error + 0.01).all()
    # What shares no draws with these.
    annealing = Annealing(2, 2, 1, "linear", 0.1, (1e-4, 0.5), 0)
    assert Annealer("test", model, None, x, annealing, None, None, "off").path.joint.pair.wide
    assert FrozenPair("test", model, prior, x).joint.pair.wide
    assert not FrozenPair("test", model, prior, x[:128]).joint.pair.wide


def test_numbers_beyond_float32_are_not_taken_for_no_mass():
    """(10^20)^2 is no float32 number: its weight is not 0, but -5e39 nats a dim."""
    case = Case(torch.float32, 0.0, 1.0)
    case.x[1] *= 1e20
    found = log_likelihood(case.model, prior, case.x, 30, seed=0, compile="off")
    assert not found.without_mass.any()
    assert found.unresolved[1]
    assert found.per_datum[1] < -1e39


def test_what_float64_cannot_resolve_is_said_as_well():
    """log p(x) of 10^19, where float64 numbers are thousands apart: no dtype helps, smaller numbers do."""
    case = Case(torch.float64, 1e9, 1e9)
    found = elbo_terms(case.model, case.guide, case.x, 2, seed=0, compile="off")
    assert found.unresolved.all()
    assert str(found).endswith("and where that is in use, standardise x")


# ---------------------------------------------------------------- chains, ranks, and weights by themselves


@SLOW
def test_chains_in_float64_on_a_float32_model():
    """Energies of ten millions: differences of tenths of a nat decide on each step."""
    case = Case(torch.float32, 0.0, 1e3, n=1)
    found = reference_posterior(case.model, case.x, num_chains=2, num_samples=60, warmup=60, seed=0, progress=False)
    exact = case.exact.posterior(case.x.double())
    error = found.mean_standard_error
    assert found.r_hat.max() < 1.1
    assert ((found.mean - exact.mean).abs() < 5 * error + 1e-3).all()
    exact_sd = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found.sd - exact_sd).abs() < 5 * found.sd_standard_error).all()
    assert (found.sd_standard_error < 0.15 * exact_sd).all()


def exact_draws(case, num_samples=200):
    """A reference that knows the posterior, and that its chains have mixed."""
    draws = case.exact.posterior(case.x.double()).sample((2, num_samples)).to(case.dtype)
    joint = Joint("test", case.model, case.x)
    log_joint = log_joint_at(joint, (case.x,), draws.flatten(0, 1)).unflatten(0, (2, num_samples)).double()
    draws = draws.double()
    return ReferencePosterior(
        draws=draws, values={"z": draws}, log_joint=log_joint, r_hat=torch.ones(N, 2), ess_bulk=ess(draws, "bulk"),
        ess_tail=ess(draws, "tail"), divergences=torch.zeros(N, dtype=torch.int64), warmup=0,
    )  # fmt: skip


def test_a_guide_is_held_against_exact_draws():
    for dtype in (torch.float64, torch.float32):
        case = Case(dtype, 1e5, 1e4)
        found = guide_error(
            exact_draws(case), case.model, case.guide, case.x, num_samples=200, num_permutations=9, seed=0,
            progress=False,
        )  # fmt: skip
        lost = dtype == torch.float32
        assert (UNRESOLVED in str(found)) == lost
        assert found.unresolved.all() == found.unresolved.any() == lost
        assert found.kl.left_out.all() == found.log_likelihood.left_out.all() == lost
        assert found.summary()["num_unresolved"] == N * lost
        if lost:
            assert "roundings hide the weights" in str(found)
        else:
            for estimate, truth in ((found.kl, case.gap), (found.log_likelihood, case.evidence)):
                assert ((estimate.per_datum - truth).abs() < 5 * estimate.standard_errors).all()


def test_no_reference_without_digits():
    case = Case(torch.float32, 1e5, 1e4, n=1)
    found = reference_posterior(case.model, case.x, num_chains=2, num_samples=5, warmup=5, seed=0, progress=False)
    assert found.unresolved.all()
    assert not found.trusted.any()
    assert UNRESOLVED in str(found)
    assert found.summary()["num_unresolved"] == 1
    found = replace(exact_draws(Case(torch.float64, 1e5, 1e4)), unresolved=torch.tensor([False, True, False]))
    assert found.trusted.tolist() == [True, False, True]


@pytest.mark.parametrize(("offset", "lost"), [(10.0, False), (1e8, True)])
def test_ranks_of_data_that_are_rounded(offset, lost):
    """The exact guide is calibrated; data near 10^8 are multiples of 8 in float32, and their posterior another."""
    for dtype in (torch.float64, torch.float32):
        case = Case(dtype, offset, 1.0)

        def guide(x, case=case):
            with pyro.plate("data", len(x), dim=-1):
                p = case.exact.posterior(x.double())
                mean, factor = p.mean.to(case.dtype), p.scale_tril.to(case.dtype)
                pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=factor))

        found = sbc(case.model, guide, case.x, num_data=200, num_draws=19, seed=0, progress=False)
        lost_here = lost and dtype == torch.float32
        assert (UNRESOLVED in str(found)) == lost_here
        assert found.calibrated or lost_here
        assert (found.num_unresolved > 0) == (found.summary()["num_unresolved"] > 0) == lost_here


def test_log_weights_that_are_lost_are_warned_of(caplog):
    case = Case(torch.float32, 1e5, 1e4)
    assert log_weights(case.model, case.guide, case.x).dtype == torch.float64
    assert caplog.messages == [f"log_weights: {UNRESOLVED}"]
    caplog.clear()
    for dtype, sizes in ((torch.float64, (1e5, 1e4)), (torch.float32, (0.0, 1.0))):
        case = Case(dtype, *sizes)
        assert log_weights(case.model, case.guide, case.x).dtype == dtype
    case = Case(torch.float32, 0.0, 100.0)
    assert log_weights(case.model, prior, case.x).dtype == torch.float64
    assert not caplog.messages
