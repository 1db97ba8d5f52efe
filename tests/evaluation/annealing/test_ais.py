"""Annealed importance sampling: closed evidence, quadrature, calibrated errors, and what is flagged."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import log_likelihood
from pyro_vae.errors import PairError
from pyro_vae.evaluation.annealing.ais import AIS, LogMean, ais
from pyro_vae.guides import MeanFieldGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.programs.precision import UNRESOLVED

QUICK = {"num_temperatures": 30, "num_chains": 16, "num_leapfrog": 5, "burn_in": 30, "seed": 0, "progress": False}


def make(log_weights, **options):
    """A result by hand; two data unless weights are given for more."""
    n = log_weights.shape[1]
    given = {"acceptance": torch.full((n,), 0.7), "diverged": torch.zeros(n)} | options
    return AIS.of_weights(log_weights, num_temperatures=100, num_leapfrog=10, schedule="sigmoid", **given)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("guided", [False, True])
def test_the_evidence_is_the_closed_one(linear_gaussian, schedule, guided):
    x = linear_gaussian.data(6)
    guide = linear_gaussian.inexact_guide if guided else None
    quick = {**QUICK, "schedule": schedule, "num_temperatures": 100, "num_chains": 64}
    found = ais(linear_gaussian.model, x, guide=guide, **quick, compile="trace")
    assert found.start == ("guide" if guided else "prior")
    assert found.standard_errors.max() < 0.3
    assert ((found.per_datum - linear_gaussian.evidence(x)).abs() < 4 * found.standard_errors).all()
    assert ((found.acceptance > 0.5) & (found.acceptance < 0.99)).all()
    assert not found.flagged.any()
    assert not found.few_effective.any()


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("count", [3, 10])
def test_the_mean_weight_is_the_evidence_however_few_the_temperatures(make_linear_gaussian, count, guided):
    """Of 200 x 40 chains, with the pilot's step sizes: 4 standard errors, each copy with its 40 chains one draw."""
    case = make_linear_gaussian(x_dim=3, latent_dim=2)
    x = case.data(1).expand(200, -1)
    guide = case.inexact_guide if guided else None
    quick = {**QUICK, "num_temperatures": count, "num_chains": 40, "burn_in": 10, "step_size_bounds": (1e-3, 1.5)}
    found = ais(case.model, x, guide=guide, **quick, compile="trace")
    weight = (found.log_weights - case.evidence(x)).exp().mean(0)
    error = weight.std() / 200**0.5
    assert error < 0.1
    assert abs(weight.mean() - 1) < 4 * error


@pytest.mark.slow
def test_two_standard_errors_cover_the_evidence_as_often_as_they_should(make_linear_gaussian):
    case = make_linear_gaussian(x_dim=3, latent_dim=2)
    x = case.data(1).expand(200, -1)
    found = ais(case.model, x, **{**QUICK, "num_temperatures": 50, "num_chains": 32}, compile="trace")
    covered = ((found.per_datum - case.evidence(x)).abs() < 2 * found.standard_errors).double().mean()
    assert 0.90 <= covered <= 0.99
    # And of the mean, which is over independent data.
    assert (
        abs(found.mean - case.evidence(x)[0]) < 4 * found.standard_error + 0.5 * found.standard_errors.square().mean()
    )


def test_one_temperature_is_importance_sampling_from_the_guide(linear_gaussian):
    x = linear_gaussian.data(5)
    found = ais(linear_gaussian.model, x, guide=linear_gaussian.inexact_guide, **{**QUICK, "num_temperatures": 1})
    assert found.acceptance.isnan().all()
    assert ((found.per_datum - linear_gaussian.evidence(x)).abs() < 4 * found.standard_errors).all()
    exact = ais(linear_gaussian.model, x, guide=linear_gaussian.exact_guide, **{**QUICK, "num_temperatures": 1})
    assert_close(exact.log_weights, linear_gaussian.evidence(x).expand(16, 5), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("scale", "few"), [(0.3, True), (6.0, False)])
def test_few_effective_chains_are_said_where_the_error_is_understated(make_linear_gaussian, scale, few):
    """At one temperature, from the prior to a narrow or a wide posterior.

    Two standard errors should cover the evidence of 95 % of 200 data; of a narrow posterior they cover less than half.
    """
    case = make_linear_gaussian(scale=scale)
    x = case.data(200)
    found = ais(case.model, x, **{**QUICK, "num_temperatures": 1}, compile="off")
    covered = ((found.per_datum - case.evidence(x)).abs() < 2 * found.standard_errors).double().mean()
    assert covered < 0.5 if few else covered > 0.8
    assert found.few_effective.double().mean() > 0.9 if few else not found.few_effective.any()
    assert ("few chains carry the weight of" in str(found)) == few
    assert found.summary()["num_few_effective"] == int(found.few_effective.sum())


def gamma(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("x", dist.Normal(rate, 0.3), obs=x)


def test_a_positive_latent_agrees_with_quadrature():
    x = torch.tensor([0.2, 1.5, 4.0], dtype=torch.float64)
    grid = torch.linspace(1e-6, 30, 400_001, dtype=torch.float64)
    density = dist.Gamma(2.0, 1.0).log_prob(grid) + dist.Normal(grid, 0.3).log_prob(x[:, None])
    expected = torch.trapezoid(density.exp(), grid).log()
    found = ais(gamma, x, **{**QUICK, "num_chains": 200, "num_temperatures": 60})
    assert found.standard_errors.max() < 0.1
    assert ((found.per_datum - expected).abs() < 4 * found.standard_errors).all()


def test_a_vae_in_float32_agrees_with_its_importance_weighted_likelihood():
    model, guide = VAE((1, 3, 2), 2, (5,)), MeanFieldGuide((1, 3, 2), 2, (5,))
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)
    x = torch.randint(0, 2, (4, 1, 3, 2)).float()
    expected = log_likelihood(model, guide, x, 5000, seed=0, progress=False)
    for start in (None, guide):
        found = ais(model, x, guide=start, **QUICK)
        assert found.log_weights.dtype == torch.float64
        error = (found.standard_errors.square() + expected.standard_errors.square()).sqrt()
        assert ((found.per_datum - expected.per_datum).abs() < 4 * error).all()
        assert found.datum == "image"


def partly_broken(x):
    """NaN everywhere for the first datum, on half of the space for the second; a cliff for the third."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        hole = (x[:, :1] > 90) | ((x[:, :1] > 40) & (z[..., :1] > 0))
        loc = torch.where(hole, torch.nan, z)
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x * (x.abs() < 40))
        pyro.factor("cliff", -1e5 * (z[..., 0] - 1).relu() * (x[:, 0] < -40))


def test_what_is_broken_is_flagged_and_the_rest_survives(linear_gaussian):
    x = torch.tensor([[99.0, 0.0], [50.0, 0.0], [-50.0, 0.0], [0.3, -0.5]], dtype=torch.float64)
    quick = {**QUICK, "burn_in": 0, "step_size": 0.4}
    found = ais(partly_broken, x, **quick)
    assert found.flagged.tolist() == [True, True, True, False]
    assert LogMean.of(found.log_weights).value.isnan().tolist() == [True, True, False, False]
    assert torch.equal(found.per_datum.isnan(), found.flagged)
    assert found.diverged[2] > 0.05
    assert found.diverged[3] == 0
    exact = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x[3]).sum()
    assert abs(found.per_datum[3] - exact) < 4 * found.standard_errors[3]
    assert found.mean == found.per_datum[3]
    assert found.standard_error == pytest.approx(found.standard_errors[3].item())
    assert str(found).endswith("; 4 data, 3 flagged and left out)")
    assert found.summary()["log_likelihood"]["num_left_out"] == 3
    alone = ais(partly_broken, x[3:], **quick)
    assert not alone.flagged.any()


def test_when_all_are_flagged_there_is_no_mean():
    found = ais(partly_broken, torch.full((2, 2), 99.0), **QUICK)
    assert math.isnan(found.mean)
    assert math.isnan(found.standard_error)
    assert math.isnan(found.data_standard_error)
    assert "2 data, 2 flagged and left out" in str(found)
    assert math.isnan(found.summary()["median_ess"])


def test_weights_without_mass_are_fair_and_one_that_is_infinite_is_flagged():
    log_weights = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, -math.inf, math.inf]], dtype=torch.float64)
    found = make(log_weights)
    assert found.per_datum[0] == pytest.approx(-math.log(2))
    assert found.flagged.tolist() == [False, True, True]


def test_the_log_of_a_mean_by_hand():
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    found = LogMean.of(weights.log() + 1000)
    assert_close(found.value, torch.tensor(2.0).double().log().expand(2) + 1000)
    assert_close(found.standard_error, weights.std(0) / 3**0.5 / 2, rtol=1e-9, atol=1e-7)
    assert_close(found.ess, torch.tensor([36 / 14, 3.0]).double())
    assert LogMean.of(weights[:1].log()).standard_error.isnan().all()


def test_one_line_and_a_summary():
    weights = torch.tensor([[-87.0, -86.0], [-86.8, -86.2]], dtype=torch.float64)
    found = make(weights, datum="image")
    assert str(found) == (
        "log p(x) >= -86.50 nats/image (AIS from the prior: 2 chains x 100 temperatures; Monte Carlo s.e. 0.07, "
        "data s.e. 0.40; acceptance 0.70; 2 images)"
    )
    summary = found.summary()
    assert summary["log_likelihood"]["mean"] == found.mean == pytest.approx(found.per_datum.mean().item())
    assert summary["log_likelihood"]["num_data"] == 2
    assert (summary["num_chains"], summary["schedule"]) == (2, "sigmoid")
    assert str(make(weights, caveat="soft targets")).startswith("no log-likelihood (soft targets): -86.50 nats/datum")
    one = make(weights[:1, :1])
    assert "1 chain x 100 temperatures; Monte Carlo s.e. unknown, data s.e. unknown; acceptance 0.70; 1 datum)" in str(
        one
    )


def test_soft_targets_are_no_bound():
    soft = VAE((6,), 2, likelihood=BernoulliLikelihood((6,), 2, (5,), soft_targets=True))
    found = ais(soft, torch.rand(3, 6), **{**QUICK, "num_temperatures": 2})
    assert not found.bound


def discrete(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("which", dist.Bernoulli(x.new_tensor(0.5)))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)


def test_bad_input_is_refused(linear_gaussian):
    model, x = linear_gaussian.model, linear_gaussian.data(3)
    for options, message in (
        ({"num_temperatures": 0}, "num_temperatures must be at least"),
        ({"num_chains": 0}, "^ais: num_chains must be at"),
        ({"schedule": "cosine"}, "^ais: schedule must"),
        ({"guide": PlanarGuide((5,), 3).double()}, "^ais: the guide cannot score"),
    ):
        with pytest.raises(ValueError, match=message):
            ais(model, x, **{**QUICK, **options})
    with pytest.raises(ValueError, match=r"^ais: .*'which' is discrete"):
        ais(discrete, x, **QUICK)
    with pytest.raises(PairError):
        ais(model, x, guide=lambda _: pyro.sample("other", dist.Normal(0.0, 1.0)), **QUICK)


def large(dtype, offset):
    """x_i = slope_i z + offset + noise in 2000 dims, x far off, and log p(x) in closed form."""
    generator = torch.Generator().manual_seed(3)
    slope = 0.02 * torch.randn(2000, generator=generator, dtype=torch.float64)
    x = 40 * torch.randn(2, 2000, generator=generator) + offset
    residual, precision = x.double() - offset, 1 + slope.square().sum()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=dtype), 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * slope.to(dtype) + offset, 1.0).to_event(1), obs=x)

    quadratic = residual.square().sum(-1) - (residual @ slope).square() / precision
    return model, x.to(dtype), -0.5 * (quadratic + 2000 * math.log(2 * math.pi) + precision.log())


@pytest.mark.parametrize("compile", ["off", "trace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_increments_of_a_million_nats(dtype, compile):
    """Within 5 standard errors of log p(x), plus 0.05 for roundings, where float32 numbers are 0.125 apart."""
    model, x, evidence = large(dtype, offset=0.0)
    found = ais(model, x, num_temperatures=200, num_chains=16, num_leapfrog=5, seed=0, compile=compile)
    assert evidence.max() < -1e6
    assert not found.flagged.any()
    assert ((found.per_datum - evidence).abs() < 5 * found.standard_errors + 0.05).all()
    assert found.standard_errors.max() < 0.5


def test_what_float32_cannot_resolve_is_flagged_and_said():
    """With an offset of 10^4 the model's own numbers round by 1e-3, and log p(x, z) by that times the residuals."""
    model, x, _ = large(torch.float32, offset=1e4)
    found = ais(model, x, num_temperatures=5, num_chains=3, seed=0, compile="off")
    assert found.flagged.all()
    assert found.unresolved.all()
    assert str(found).endswith(f"2 flagged and left out); {UNRESOLVED}")
    assert found.summary()["num_unresolved"] == 2
    model, x, _ = large(torch.float64, offset=1e4)
    found = ais(model, x, num_temperatures=5, num_chains=3, seed=0, compile="off")
    assert not found.flagged.any()
    assert not found.unresolved.any()
    assert UNRESOLVED not in str(found)
