"""The gaps against closed forms, on a bent posterior, for programs of several kinds; refusals and flags."""

import logging
import math
from types import SimpleNamespace

import pyro
import pytest
import torch
from held_parts import data_for, model_for
from pyro import distributions as dist
from refusals import leave
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_vae.evaluation import inference_gaps, log_likelihood
from pyro_vae.guides import AuxiliaryGuide, InverseAutoregressiveGuide, MeanFieldGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.parts import make_pair, part_names
from pyro_vae.programs.layouts import OneByOne, RepeatedRows


def closed_gaps(case, x):
    """The gaps of the inexact guide: the best diagonal Gaussian has the precisions of the posterior's diagonal."""
    exact, q = case.model.posterior(x), case.diagonal(x)
    precision = exact.precision_matrix
    approximation = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())
    inference = kl_divergence(dist.MultivariateNormal(q.mean, q.variance.diag_embed()), exact)
    return approximation, inference - approximation, inference


def within(gaps, name, truth, k=4.0):
    """Whether the mean is within k Monte Carlo standard errors of the truth's."""
    estimate = gaps.estimates[name]
    return abs(estimate.mean - truth.mean().item()) < k * estimate.standard_error


# ---------------------------------------------------------------- closed forms


def test_the_gaps_of_a_shifted_and_stretched_diagonal_gaussian(linear_gaussian):
    x = linear_gaussian.data(8)
    gaps = inference_gaps(
        linear_gaussian.model, linear_gaussian.inexact_guide, x, family="diagonal", num_samples=2000, seed=0
    )
    assert gaps.converged.all()
    assert not gaps.flagged.any()
    truth = closed_gaps(linear_gaussian, x)
    assert truth[0].min() > 0.1
    for name, value in zip(("approximation_gap", "amortization_gap", "inference_gap"), truth, strict=True):
        assert within(gaps, name, value), name
        assert gaps.estimates[name].standard_errors.shape == (8,)
    assert within(gaps, "log_likelihood", linear_gaussian.evidence(x))
    assert_close(gaps.approximation_gap.per_datum + gaps.amortization_gap.per_datum, gaps.inference_gap.per_datum)
    assert_close(gaps.log_likelihood.per_datum - gaps.elbo.per_datum, gaps.inference_gap.per_datum)


def test_no_approximation_gap_is_left_by_full_rank_maps(linear_gaussian):
    """0 for each datum, but for 0.01 nats that the optimizer may leave; all of the gap is the encoder's."""
    x = linear_gaussian.data(8)
    gaps = inference_gaps(linear_gaussian.model, linear_gaussian.inexact_guide, x, family="full_rank", seed=0)
    assert gaps.converged.all()
    assert (gaps.approximation_gap.per_datum.abs() < 4 * gaps.approximation_gap.standard_errors).all()
    assert gaps.approximation_gap.per_datum.abs().max() < 0.01
    assert gaps.evidence_source == "IWAE-5000 with q*"
    assert within(gaps, "log_likelihood", linear_gaussian.evidence(x))
    assert within(gaps, "amortization_gap", closed_gaps(linear_gaussian, x)[2])


@pytest.mark.slow
def test_two_standard_errors_cover_the_truth_as_often_as_they_should(linear_gaussian):
    """200 copies of a datum are 200 repetitions; 90 to 99 %: a binomial of 0.9545 has a standard error of 1.5 %."""
    x = linear_gaussian.data(1)
    gaps = inference_gaps(
        linear_gaussian.model, linear_gaussian.inexact_guide, x.expand(200, -1), family="diagonal", num_samples=200,
        evidence_samples=1000, seed=0,
    )  # fmt: skip
    assert gaps.converged.double().mean() > 0.98
    truth = dict(
        zip(("approximation_gap", "amortization_gap", "inference_gap"), closed_gaps(linear_gaussian, x), strict=True)
    )
    truth["log_likelihood"] = linear_gaussian.evidence(x)
    truth["elbo"] = truth["log_likelihood"] - truth["inference_gap"]
    truth["best_elbo"] = truth["log_likelihood"] - truth["approximation_gap"]
    assert truth.keys() == gaps.estimates.keys()
    for name, estimate in gaps.estimates.items():
        covered = (estimate.per_datum - truth[name]).abs() < 2 * estimate.standard_errors
        assert 0.90 <= covered.double().mean() <= 0.99, name
        # And the mean over data is that of 200 independent estimates.
        assert within(gaps, name, truth[name]), name


# ---------------------------------------------------------------- families


@pytest.fixture(scope="module")
def bent():
    """A posterior like a banana, rising to the right: x sees z_2 - (z_1 + 1)^2 / 2. Its gaps by family."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 1] - 0.5 * (z[..., 0] + 1).square(), 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 0.5).to_event(1))

    pyro.set_rng_seed(0)
    x = 0.3 * torch.randn(6).double()
    found = {
        family: inference_gaps(model, guide, x, family=family, num_samples=2000, evidence_samples=3000, seed=0)
        for family in ("diagonal", "full_rank", "flow")
    }
    return model, x, found


def quadrature(model, x):
    """The log-evidence on a grid over the plane."""
    axis = torch.linspace(-6, 6, 801).double()
    grid = torch.cartesian_prod(axis, axis)
    found = []
    for row in x:
        seen = dist.Normal(grid[:, 1] - 0.5 * (grid[:, 0] + 1).square(), 0.3).log_prob(row)
        log_joint = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1) + seen
        found.append(log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log())
    return torch.stack(found)


@pytest.mark.slow
def test_a_bent_posterior_is_closer_to_a_flow_than_to_a_gaussian_than_to_a_diagonal_one(bent):
    """By 4 paired standard errors over the data; of the flow's gap little is left."""
    _, _, found = bent
    assert all(gaps.converged.all() for gaps in found.values())

    def above(worse, better):
        difference = found[better].best_elbo.per_datum - found[worse].best_elbo.per_datum
        errors = torch.hypot(found[better].best_elbo.standard_errors, found[worse].best_elbo.standard_errors)
        return difference.mean() > 4 * errors.square().sum().sqrt() / len(errors)

    assert above("full_rank", "flow")
    assert above("diagonal", "full_rank")
    flow, gaussian = (found[family].approximation_gap.mean for family in ("flow", "full_rank"))
    assert flow < 0.35 * gaussian


@pytest.mark.slow
def test_the_evidence_of_a_bent_posterior_is_the_integral(bent):
    """By the full-rank map and the flow; the diagonal proposal's k-hats are over the limit, and its bound is below."""
    model, x, found = bent
    truth = quadrature(model, x)
    assert within(found["flow"], "log_likelihood", truth)
    assert within(found["full_rank"], "log_likelihood", truth)
    diagonal = found["diagonal"]
    assert diagonal.log_likelihood.mean < truth.mean().item() + 4 * diagonal.log_likelihood.standard_error
    assert found["flow"].log_likelihood.standard_errors.mean() < found["diagonal"].log_likelihood.standard_errors.mean()


def test_its_own_family_is_that_of_the_guides_posterior():
    x = torch.rand(3, 1, 2, 2).round()
    model = VAE((1, 2, 2), 2, (4,))
    few = {"max_steps": 4, "check_every": 2, "num_samples": 4, "evidence_samples": 4}
    for guide, family in ((MeanFieldGuide, "diagonal"), (InverseAutoregressiveGuide, "flow"), (PlanarGuide, "flow")):
        assert inference_gaps(model, guide((1, 2, 2), 2, (4,)), x, **few).family == family


# ---------------------------------------------------------------- programs


def test_a_positive_latent_under_a_log_normal_guide():
    r"""p(rate | x) is Gamma(a, 2), a = x + 2, so that for u = log rate ~ N(m, s^2), in closed form,

    KL = constant - log s - a m + 2 exp(m + s^2 / 2), which is least at s^2 = 1 / a, exp(m + s^2 / 2) = a / 2.
    """

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.LogNormal(x.log1p() - 0.3, 0.5))

    x = torch.tensor([0.0, 1, 4, 9]).double()
    a = x + 2

    def kl(m, s):
        log_p = a * math.log(2) - a.lgamma() + a * m - 2 * (m + s.square() / 2).exp()
        return -0.5 * (2 * math.pi * math.e * s.square()).log() - log_p

    approximation = kl((a / 2).log() - 0.5 / a, a.rsqrt())
    inference = kl(x.log1p() - 0.3, torch.full_like(x, 0.5))
    gaps = inference_gaps(model, guide, x, family="diagonal", seed=0)
    # Poisson under Gamma(2, 1): 2 failures, probability 1/2.
    assert within(gaps, "log_likelihood", dist.NegativeBinomial(2.0, torch.tensor(0.5).double()).log_prob(x))
    assert within(gaps, "approximation_gap", approximation)
    assert within(gaps, "amortization_gap", inference - approximation)
    assert within(gaps, "inference_gap", inference)


@pytest.mark.slow
def test_several_sites_and_a_guide_with_an_auxiliary_variable():
    """A full-rank map mixes sites. L[q*] is above L[q], and the gaps add up, for a flow on both."""
    x = (torch.rand(5, 6) > 0.5).double()
    weights = torch.randn(2, 6).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x.new_tensor(0.0), 1.0))
            b = pyro.sample("b", dist.Gamma(x.new_tensor(2.0), 1.0))
            logits = torch.stack([a, b], -1) @ weights
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            v = pyro.sample("v", dist.Normal(x.new_tensor(0.0), 1.0), infer={"is_auxiliary": True})
            a = pyro.sample("a", dist.Normal(0.5 * v, 0.8))
            pyro.sample("b", dist.LogNormal(x[:, 0], 1.0))
            # The exact reverse model: a linear Gaussian's.
            pyro.factor("reverse", -dist.Normal(a * 0.5 / 0.89, math.sqrt(0.64 / 0.89)).log_prob(v), has_rsample=True)

    gaps = inference_gaps(model, guide, x, family="full_rank", num_samples=1000, seed=0)
    assert not gaps.flagged.any()
    assert (gaps.amortization_gap.per_datum > -4 * gaps.amortization_gap.standard_errors).all()
    assert gaps.amortization_gap.mean > 4 * gaps.amortization_gap.standard_error
    reference = log_likelihood(model, guide, x, 20_000, seed=1)
    error = math.hypot(gaps.log_likelihood.standard_error, reference.standard_error)
    assert abs(gaps.log_likelihood.mean - reference.mean) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", part_names("guide"))
def test_every_guide_of_the_library_can_be_asked_and_is_captured(name, caplog):
    """A q* is not worse than q, but for noise, and the parts add up."""
    x = torch.rand(3, 1, 2, 2).round()
    model, guide = make_pair((1, 2, 2), 2, (4,), model=model_for(name), guide=name, data=lambda: x)
    x = data_for(name, x)
    gaps = inference_gaps(model, guide, x, num_samples=200, evidence_samples=200, max_steps=100, seed=0)
    assert caplog.text == ""
    assert not gaps.flagged.any()
    assert (gaps.amortization_gap.per_datum > -4 * gaps.amortization_gap.standard_errors - 1e-5).all()
    assert_close(gaps.approximation_gap.per_datum + gaps.amortization_gap.per_datum, gaps.inference_gap.per_datum)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [RepeatedRows, OneByOne])
def test_a_guide_that_refuses_leading_dims(linear_gaussian, layout, caplog):
    x = linear_gaussian.data(3)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", linear_gaussian.diagonal(x))
            leave(layout, z, ndim=2, rows=127)

    gaps = inference_gaps(
        linear_gaussian.model, guide, x, family="diagonal", num_samples=200, evidence_samples=200, step_samples=4,
        max_steps=20, check_every=10, seed=0,
    )  # fmt: skip
    assert ("run one by one" in caplog.text) == (layout is OneByOne)
    assert within(gaps, "inference_gap", closed_gaps(linear_gaussian, x)[2])
    assert gaps.amortization_gap.mean > 4 * gaps.amortization_gap.standard_error


@pytest.mark.slow
def test_a_guide_without_a_density_of_z_is_fitted_from_where_it_is():
    x = torch.rand(6, 1, 2, 2).round()
    model, guide = VAE((1, 2, 2), 2, (8,)), AuxiliaryGuide((1, 2, 2), 2, (8,))
    gaps = inference_gaps(model, guide, x, num_samples=500, max_steps=400, seed=0)
    assert gaps.family == "flow"
    assert (gaps.amortization_gap.per_datum > -4 * gaps.amortization_gap.standard_errors).all()
    assert gaps.amortization_gap.mean > 4 * gaps.amortization_gap.standard_error


# ---------------------------------------------------------------- what it promises


def quick(case, x, **options):
    few = {"num_samples": 64, "evidence_samples": 64, "max_steps": 40, "check_every": 20, "family": "diagonal"}
    return inference_gaps(case.model, case.inexact_guide, x, **few | options)


def test_a_seed_fixes_every_number_and_leaves_the_global_noise_alone(linear_gaussian):
    x = linear_gaussian.data(3)
    before = torch.get_rng_state()
    one, two, other = (quick(linear_gaussian, x, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for name, estimate in one.estimates.items():
        assert torch.equal(estimate.per_datum, two.estimates[name].per_datum)
        assert torch.equal(estimate.standard_errors, two.estimates[name].standard_errors)
    assert not torch.equal(one.elbo.per_datum, other.elbo.per_datum)


def test_a_bar_is_shown_where_it_is_asked_for(linear_gaussian, capsys):
    quick(linear_gaussian, linear_gaussian.data(2), progress=True)
    assert "inference_gaps: 100%" in capsys.readouterr().err
    quick(linear_gaussian, linear_gaussian.data(2))
    assert capsys.readouterr().err == ""


def test_modules_come_back_in_the_mode_they_were_in_and_without_gradients():
    model, guide = VAE((1, 2, 2), 2, (4,)), MeanFieldGuide((1, 2, 2), 2, (4,))
    model.train()
    guide.eval()
    before = [p.clone() for p in model.parameters()]
    inference_gaps(model, guide, torch.zeros(2, 1, 2, 2), num_samples=4, evidence_samples=4, max_steps=2, check_every=2)
    assert model.training
    assert not guide.training
    assert all(p.grad is None for p in [*model.parameters(), *guide.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_the_best_evidence_is_taken_and_named(linear_gaussian):
    x = linear_gaussian.data(4)

    def given(shift):
        evidence = linear_gaussian.evidence(x) + shift
        return SimpleNamespace(per_datum=evidence, standard_errors=torch.full((4,), 0.25).double())

    better = quick(linear_gaussian, x, evidence=given(5.0))
    assert better.evidence_source == "SimpleNamespace"
    assert_close(better.log_likelihood.per_datum, linear_gaussian.evidence(x) + 5)
    assert_close(
        better.inference_gap.standard_errors, torch.hypot(better.elbo.standard_errors, torch.full((4,), 0.25).double())
    )
    lower = quick(linear_gaussian, x, evidence=given(-5.0), evidence_samples=2000)
    assert lower.evidence_source.startswith("IWAE-2000 with q")
    alone = quick(linear_gaussian, x, evidence=given(-5.0), evidence_samples=0)
    assert alone.evidence_source == "SimpleNamespace"


def test_a_datum_without_the_chosen_evidence_takes_another_or_is_flagged(linear_gaussian):
    x = linear_gaussian.data(4)
    values = linear_gaussian.evidence(x) + 5
    values[1] = math.nan
    given = SimpleNamespace(per_datum=values, standard_errors=torch.zeros(4))
    gaps = quick(linear_gaussian, x, evidence=given)
    assert gaps.evidence_source.startswith("SimpleNamespace (IWAE-64 with q")
    assert gaps.evidence_source.endswith(" for 1 datum)")
    assert not gaps.flagged.any()
    gaps = quick(linear_gaussian, x, evidence=given, evidence_samples=0)
    assert gaps.evidence_source == "SimpleNamespace"
    assert gaps.flagged.tolist() == [False, True, False, False]
    assert math.isfinite(gaps.inference_gap.mean)


def test_one_datum_has_no_error_over_data(linear_gaussian):
    gaps = quick(linear_gaussian, linear_gaussian.data(1))
    assert math.isfinite(gaps.inference_gap.standard_error)
    assert math.isnan(gaps.inference_gap.data_standard_error)
    assert "1 of 1 datum" in str(gaps)


def test_soft_targets_are_called_no_log_likelihood():
    likelihood = BernoulliLikelihood((1, 2, 2), 2, (4,), soft_targets=True)
    model, guide = VAE((1, 2, 2), 2, likelihood=likelihood), MeanFieldGuide((1, 2, 2), 2, (4,))
    few = {"max_steps": 4, "check_every": 2, "num_samples": 4, "evidence_samples": 4}
    gaps = inference_gaps(model, guide, torch.rand(2, 1, 2, 2), **few)
    assert not gaps.bound
    assert str(gaps).startswith("no log-likelihood (soft targets): inference gap ")
    assert "nats/image" in str(gaps)


def test_one_line_and_a_summary_for_a_file(linear_gaussian):
    gaps = quick(linear_gaussian, linear_gaussian.data(3))
    text, summary = str(gaps), gaps.summary()
    assert "\n" not in text
    for part in ("inference gap ", "= approximation ", "+ amortization ", "nats/datum", "by IWAE-64 with q"):
        assert part in text
    assert "not converged for 3 of 3 data" in text
    means = {name: summary.pop(name)["mean"] for name in gaps.estimates}
    assert f"inference gap {means['inference_gap']:.2f} (s.e." in text
    assert summary["num_not_converged"] == 3
    assert gaps.inference_gap.summary()["num_data"] == 3
    assert means["inference_gap"] == pytest.approx(means["approximation_gap"] + means["amortization_gap"])
    assert all(isinstance(value, str | int | float | bool) for value in summary.values())


def test_a_datum_that_is_not_finite_is_flagged_and_the_rest_survives(linear_gaussian):
    x = linear_gaussian.data(4)
    x[2] = 77.0

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            q = linear_gaussian.diagonal(x)
            bad = (x[:, :1] == 77.0).expand(-1, 3)
            pyro.sample("z", dist.Normal(torch.where(bad, math.nan, q.mean), q.stddev).to_event(1))

    gaps = inference_gaps(
        linear_gaussian.model, guide, x, family="diagonal", num_samples=500, evidence_samples=500, seed=0
    )
    assert gaps.flagged.tolist() == [False, False, True, False]
    assert gaps.converged.tolist() == [True, True, False, True]
    for estimate in gaps.estimates.values():
        assert estimate.per_datum.isnan().tolist() == gaps.flagged.tolist()
        assert estimate.standard_errors.isnan().tolist() == gaps.flagged.tolist()
    fair = ~gaps.flagged
    assert gaps.elbo.mean == pytest.approx(gaps.elbo.per_datum[fair].mean().item())
    truth = closed_gaps(linear_gaussian, x[fair])
    assert within(gaps, "approximation_gap", truth[0])
    assert within(gaps, "amortization_gap", truth[1])
    assert "not converged for 0 of 4 data; 1 not finite and left out of every mean" in str(gaps)
    assert gaps.summary()["elbo"]["num_left_out"] == 1


def test_what_cannot_be_captured_runs_as_it_is_and_says_so(linear_gaussian, caplog):
    x, scale = linear_gaussian.data(3), 2.0

    def guide(x):
        # A Python number out of the data: recording would freeze it.
        mean = x.mean().item()
        with pyro.plate("data", len(x), dim=-1):
            q = linear_gaussian.diagonal(x)
            pyro.sample("z", dist.Normal(q.mean + 0 * mean, scale * q.stddev).to_event(1))

    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        gaps = inference_gaps(
            linear_gaussian.model, guide, x, family="diagonal", num_samples=50, evidence_samples=50, max_steps=100,
            check_every=50, seed=0,
        )  # fmt: skip
    assert not gaps.flagged.any()
    assert "inference_gaps: runs without a graph, which is slower" in caplog.text


def test_rows_bound_what_is_run_at_a_time(linear_gaussian):
    """Two data of 1280 samples each, but for first runs: what is per datum is seen on 3 and 4, the sites on 127."""
    x = linear_gaussian.data(5)
    lengths = set()

    def guide(x):
        lengths.add(len(x))
        return linear_gaussian.inexact_guide(x)

    gaps = inference_gaps(
        linear_gaussian.model, guide, x, family="diagonal", num_samples=400, evidence_samples=400, step_samples=1280,
        max_steps=50,
    )  # fmt: skip
    assert not gaps.flagged.any()
    assert within(gaps, "inference_gap", closed_gaps(linear_gaussian, x)[2])
    assert lengths == {2, 3, 4, 127}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "banana"}, "family must be one of"),
        ({"num_samples": 1}, "num_samples must be at least 2"),
        ({"evidence_samples": 0}, r".*2, or 0 where .*got 0"),
        ({"evidence_samples": 1}, r".*2, or 0 where .*got 1"),
        ({"step_samples": 0}, "step_samples must be at least"),
        ({"max_steps": 0}, "max_steps must be at least"),
        ({"patience": 0}, "patience must be at least"),
        ({"check_every": 1}, "check_every must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"evidence": 3.0}, r"evidence must .*shape \(3,\)"),
    ],
)
def test_options_out_of_range_are_refused(linear_gaussian, options, message):
    with pytest.raises(ValueError, match=f"inference_gaps: {message}"):
        inference_gaps(linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3), **options)


def test_evidence_of_other_data_is_refused(linear_gaussian):
    other = log_likelihood(linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(4), 10)
    with pytest.raises(ValueError, match=r"got \(4,\) and \(4,\) from LogL"):
        inference_gaps(linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3), evidence=other)


def test_a_spoiled_evidence_does_not_win(linear_gaussian):
    """Too high by 5 nats and flagged, by itself or by its k-hat: whoever is dependable stands in."""
    x = linear_gaussian.data(4)
    values, errors = linear_gaussian.evidence(x) + 5, torch.full((4,), 0.01).double()
    flagged = SimpleNamespace(per_datum=values, standard_errors=errors, flagged=torch.tensor([True, True, True, False]))
    tailed = SimpleNamespace(per_datum=values, standard_errors=errors, pareto_k=torch.full((4,), 0.9), num_samples=500)
    options = {"family": "diagonal", "num_samples": 64, "evidence_samples": 500, "max_steps": 400, "seed": 0}
    for spoiled, honest in ((flagged, 3), (tailed, 4)):
        gaps = inference_gaps(linear_gaussian.model, linear_gaussian.inexact_guide, x, evidence=spoiled, **options)
        difference = gaps.log_likelihood.per_datum - linear_gaussian.evidence(x)
        assert difference[:honest].abs().max() < 0.3
        assert "estimates of log p(x) disagree: " in str(gaps)
        assert "SimpleNamespace is 5" in gaps.summary()["disagreement"]
    assert gaps.evidence_source.startswith("IWAE-500 with q")


def test_a_best_member_that_did_not_converge_gives_no_evidence(linear_gaussian):
    """Its own bound stands, but the estimate is taken from q, whose k-hat has nothing against it."""
    x = linear_gaussian.data(4)
    given = {"family": "diagonal", "num_samples": 64, "evidence_samples": 500, "seed": 0}
    cut = inference_gaps(linear_gaussian.model, linear_gaussian.inexact_guide, x, max_steps=2, check_every=2, **given)
    assert not cut.converged.any()
    assert cut.evidence_source == "IWAE-500 with q"
    assert not cut.doubtful.any()


def test_what_has_no_dependable_evidence_is_counted(linear_gaussian):
    x, case = linear_gaussian.data(3), linear_gaussian

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", case.diagonal(x, shift=0.0, stretch=0.1))

    gaps = inference_gaps(
        case.model, narrow, x, family="diagonal", num_samples=64, evidence_samples=500, seed=0, max_steps=2,
        check_every=2,
    )  # fmt: skip
    assert gaps.doubtful.all()
    assert "log p^ is not dependable for 3" in str(gaps)
    assert gaps.summary()["num_doubtful"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaps_of_a_few_tenths_between_bounds_of_a_million(dtype):
    """q is the posterior, half as wide: KL(q || p) = log 2 + 1/8 - 1/2 nats, all of it amortization gap."""
    generator = torch.Generator().manual_seed(3)
    slope = 0.02 * torch.randn(2000, generator=generator, dtype=torch.float64)
    x = (40 * torch.randn(3, 2000, generator=generator)).to(dtype)
    precision = 1 + slope.square().sum()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=dtype), 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * slope.to(dtype), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            mean = (x.double() @ slope / precision).to(dtype).unsqueeze(-1)
            width = (0.5 * precision.rsqrt()).to(dtype)
            pyro.sample("z", dist.Normal(mean, width).to_event(1))

    gaps = inference_gaps(model, guide, x, family="diagonal", num_samples=1000, evidence_samples=1000, seed=0)
    expected = math.log(2) + 1 / 8 - 1 / 2
    assert gaps.log_likelihood.per_datum.max() < -1e6
    assert gaps.converged.all()
    assert (
        gaps.amortization_gap.per_datum - expected
    ).abs().max() < 5 * gaps.amortization_gap.standard_errors.max() + 0.01
    assert gaps.approximation_gap.per_datum.abs().max() < 5 * gaps.approximation_gap.standard_errors.max() + 0.01
    assert gaps.amortization_gap.standard_errors.max() < 0.03
    exact = -0.5 * (x.double().square().sum(-1) - (x.double() @ slope).square() / precision)
    exact = exact - 0.5 * (2000 * math.log(2 * math.pi) + precision.log())
    assert_close(gaps.log_likelihood.per_datum, exact, rtol=0, atol=0.03)
    assert gaps.num_unresolved == 0
