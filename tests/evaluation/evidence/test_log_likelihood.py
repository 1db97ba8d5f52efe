"""log_likelihood against exact evidence, direct sums over all weights, and itself by other routes."""

import logging
import math
import subprocess
import sys

import pyro
import pytest
import torch
from arviz_psis import khat_of_all
from pyro import distributions as dist
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_likelihood, log_weights
from pyro_vae.errors import NonFiniteError, OutOfMemoryError, PairError
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.graphs import levels as term_draws
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import make_pair
from pyro_vae.programs.pair import Pair

EXACT = {"rtol": 1e-8, "atol": 1e-8}


# ---------------------------------------------------------------- exact evidence


def test_the_evidence_within_its_own_errors(make_linear_gaussian):
    """The mean within 4 standard errors, at least 95 % of data within 2 of their own.

    Normal errors put 95.45 % there; of 20 000 data the share itself has a standard error of 0.15 %, so that 95 % is
    three of them away.
    """
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(20_000)
    found = log_likelihood(case.model, case.inexact_guide, x, num_samples=250, seed=0)
    evidence = case.evidence(x)
    assert abs(found.mean - evidence.mean().item()) < 4 * found.standard_error
    within = (found.per_datum - evidence).abs() < 2 * found.standard_errors
    assert within.double().mean() >= 0.95
    assert found.standard_errors.max() < 0.1
    assert not found.flagged.any()


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("num_samples", [1, 7, 60, 101])
@pytest.mark.parametrize("calls", [1, 64])
def test_an_exact_guide_gives_a_datum_the_same_value_in_any_company(linear_gaussian, n, num_samples, calls):
    """Blocks of many shapes: several data a call, several calls a datum, a ragged last block and chunk."""
    case = linear_gaussian
    x = case.data(9)
    with run_sizes(rows=20, head=20, calls=calls):
        found = log_likelihood(case.model, case.exact_guide, x[:n], num_samples)
    assert found.per_datum.dtype == torch.float64
    assert_close(found.per_datum, case.evidence(x)[:n], **EXACT)
    assert_close(found.ess, torch.full((n,), float(num_samples)).double(), **EXACT)
    assert found.standard_errors.isnan().all() if num_samples == 1 else found.standard_errors.max() < 1e-6


@pytest.mark.parametrize("subsample_size", [1, 4, 10, 11])
@pytest.mark.parametrize("fixed_size", [True, False])
def test_subsampled_plates_are_visited_in_order(linear_gaussian, subsample_size, fixed_size):
    """Also where the plate's size is written into the program and reaches beyond the first block of rows."""
    case, p = linear_gaussian, linear_gaussian.model
    x = case.data(11)

    def model(x):
        with pyro.plate("data", 11 if fixed_size else len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ p.loadings.T + p.bias, p.log_scale.exp()).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 11 if fixed_size else len(x), subsample_size=subsample_size) as rows:
            pyro.sample("z", p.posterior(x[rows]))

    with run_sizes(rows=5, head=5):
        found = log_likelihood(model, guide, x, num_samples=30)
    assert_close(found.per_datum, case.evidence(x), **EXACT)
    assert_close(found.ess, torch.full((11,), 30.0).double(), **EXACT)


@pytest.mark.parametrize("subsample_size", [64, 128, 256])
def test_a_subsample_may_be_as_large_as_anyone_would_choose(linear_gaussian, subsample_size):
    case, p = linear_gaussian, linear_gaussian.model
    x = case.data(300)

    def model(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ p.loadings.T + p.bias, p.log_scale.exp()).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            pyro.sample("z", p.posterior(x[rows]))

    assert_close(log_likelihood(model, guide, x, 30).per_datum, case.evidence(x), **EXACT)


@pytest.mark.parametrize("n", [3, 11])
def test_a_plate_that_stands_for_more_rows_than_it_is_given(linear_gaussian, n):
    """plate("data", 11, subsample_size=len(x)) takes all rows it is given, also when those are all 11."""
    case, p = linear_gaussian, linear_gaussian.model

    def model(x):
        with pyro.plate("data", 11, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ p.loadings.T + p.bias, p.log_scale.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 11, subsample_size=len(x)):
            pyro.sample("z", p.posterior(x))

    x = case.data(n)
    with run_sizes(rows=5, head=5):
        found = log_likelihood(model, guide, x, num_samples=3)
    assert_close(found.per_datum, case.evidence(x), **EXACT)


# ---------------------------------------------------------------- the Gaussian toy of twenty dims

DIMS, A, B = 20, 1 / 2, 2 / 3
"""Posterior N((x + mu) / 2, A), guide N((x + mu) / 2, B), both as variances of each dim."""


def toy():
    mu = torch.linspace(-1, 1, DIMS, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + mu) / 2, math.sqrt(B)).to_event(1))

    def evidence(x):
        return torch.distributions.Normal(mu, math.sqrt(2)).log_prob(x).sum(-1)

    return model, guide, evidence, lambda n: mu + math.sqrt(2) * torch.randn(n, DIMS, dtype=torch.float64)


def test_the_elbo_gap_of_the_toy():
    """One weight's mean is the ELBO; the gap is 20 KL(N(0, B) || N(0, A)) = 10 (B/A - 1 - log B/A)."""
    gap = DIMS * 0.5 * (B / A - 1 - math.log(B / A))
    assert gap == pytest.approx(0.4565, abs=5e-5)
    model, guide, evidence, draw = toy()
    x = draw(40_000)
    difference = evidence(x) - log_likelihood(model, guide, x, 1, seed=0).per_datum
    error = (difference.std() / math.sqrt(len(x))).item()
    assert abs(difference.mean().item() - gap) < 4 * error
    assert error < 0.01


def test_the_bias_of_two_dozen_samples():
    """E[log mean w] - log E w = -(E[w^2] / E[w]^2 - 1) / 2K to first order, here about -0.453 / K.

    Each dim has int p^2 / q = sqrt(B) / (A sqrt(2 / A - 1 / B)). The next order is 0.034 / K^2 (computed from
    the third moment), 0.00006 at K = 24, against a standard error of 0.002.
    """
    second_moment = (math.sqrt(B) / (A * math.sqrt(2 / A - 1 / B))) ** DIMS
    constant = (second_moment - 1) / 2
    assert constant == pytest.approx(0.453, abs=1e-3)
    model, guide, evidence, draw = toy()
    x = draw(10_000)
    found = log_likelihood(model, guide, x, 24, seed=0)
    difference = found.per_datum - evidence(x)
    error = (difference.std() / math.sqrt(len(x))).item()
    assert abs(difference.mean().item() + constant / 24) < 4 * error
    assert constant / 24 > 6 * error  # the check can tell the bias from none
    # The standard errors it states are those the spread shows, within 10 %.
    assert found.standard_errors.square().mean().sqrt().item() == pytest.approx(difference.std().item(), rel=0.1)


def test_the_bound_grows_with_the_number_of_samples():
    """On the same data K = 1, 4, 16: each step up by more than 4 paired standard errors, none past log p(x)."""
    model, guide, evidence, draw = toy()
    x = draw(8000)
    bounds = [log_likelihood(model, guide, x, k, seed=k).per_datum for k in (1, 4, 16)]
    for lower, higher in zip(bounds, [*bounds[1:], evidence(x)], strict=True):
        step = higher - lower
        assert step.mean() > 4 * step.std() / math.sqrt(len(x))


# ---------------------------------------------------------------- direct sums over all weights


def in_chunks(case, x, width, step, calls):
    """All weights as log_likelihood draws them: block after block, chunk after chunk."""
    blocks = []
    for start in range(0, len(x), width):
        chunks = [log_weights(case.model, case.inexact_guide, x[start : start + width], step) for _ in range(calls)]
        blocks.append(torch.cat(chunks))
    return torch.cat(blocks, dim=1)


def test_every_number_equals_a_direct_computation(linear_gaussian):
    """250 samples of 12 data in 3 calls of 84, of which the last two samples are dropped."""
    case = linear_gaussian
    x = case.data(12)
    with run_sizes(rows=100, head=100, calls=1):
        found = log_likelihood(case.model, case.inexact_guide, x, 250, seed=11)
    torch.manual_seed(11)
    weights = in_chunks(case, x, width=1, step=84, calls=3)[:250]
    w = (weights - weights.max()).exp()
    assert_close(found.per_datum, weights.logsumexp(0) - math.log(250), **EXACT)
    assert_close(found.ess, w.sum(0).square() / w.square().sum(0), **EXACT)
    assert_close(found.standard_errors, w.std(0) / math.sqrt(250) / w.mean(0), **EXACT)
    assert found.standard_error == pytest.approx((found.standard_errors.square().sum().sqrt() / 12).item())
    assert found.data_standard_error == pytest.approx((found.per_datum.std() / math.sqrt(12)).item())
    # The largest weight comes in each of the calls, so that the running sums are rescaled.
    assert set((weights.argmax(0) // 84).tolist()) == {0, 1, 2}
    assert_close(found.pareto_k, khat_of_all(weights.T), rtol=1e-10, atol=1e-10)


def test_weights_of_any_size_neither_overflow_nor_vanish(linear_gaussian):
    """A factor of e^+-100000 on every weight shifts the result by as much."""
    case = linear_gaussian
    x = case.data(3)
    plain = log_likelihood(case.model, case.inexact_guide, x, 60, seed=1)
    for shift in (-1e5, 1e5):

        def model(x, shift=shift):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
                mean = z @ case.model.loadings.T + case.model.bias
                pyro.sample("x", dist.Normal(mean, case.model.log_scale.exp()).to_event(1), obs=x)
                pyro.factor("shift", torch.full(z.shape[:-1], shift).double())

        shifted = log_likelihood(model, case.inexact_guide, x, 60, seed=1)
        assert str(shifted).startswith("no log-likelihood (pyro.factor 'shift' makes p(x, z) unnormalised): ")
        assert_close(shifted.per_datum, plain.per_datum + shift, rtol=1e-12, atol=0)
        assert_close(shifted.ess, plain.ess, rtol=1e-6, atol=0)


def test_weights_of_zero():
    """x | z uniform on z +- 1: p(x) = (Phi(x + 1) - Phi(x - 1)) / 2, and most weights at x = 4 are 0."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))

    x = torch.tensor([0.0, 1.5, 3.0, 9.0], dtype=torch.float64)
    found = log_likelihood(model, guide, x, 20_000, seed=0)
    phi = torch.distributions.Normal(0.0, 1.0).cdf
    evidence = ((phi(x + 1) - phi(x - 1)) / 2).log()
    assert ((found.per_datum - evidence)[:3].abs() < 4 * found.standard_errors[:3]).all()
    assert found.per_datum[3] == -math.inf


# ---------------------------------------------------------------- weights that float32 sums would lose


def large(dtype, offset=0.0, stretch=1.0, dims=2000):
    """x = z a + offset + noise in many dims, z ~ N(0, 1), in closed form; the guide draws the same z in any dtype."""
    generator = torch.Generator().manual_seed(3)
    slope = 0.05 * torch.randn(dims, generator=generator, dtype=torch.float64)
    x = 40 * torch.randn(3, dims, generator=generator) + offset
    precision = 1 + slope.square().sum()
    residual = x.double() - offset
    width = torch.tensor(stretch * precision.rsqrt().item())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=dtype), 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * slope.to(dtype) + offset, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            # Its mean is a float32 number in both dtypes.
            mean = ((x.double() - offset) @ slope / precision).float()
            pyro.sample("z", Doubling(mean.unsqueeze(-1), width, dtype).to_event(1))

    quadratic = residual.square().sum(-1) - (residual @ slope).square() / precision
    evidence = -0.5 * (quadratic + dims * math.log(2 * math.pi) + precision.log())
    return model, guide, x.to(dtype), evidence


class Doubling(dist.Normal):
    """A normal law in a dtype that draws in float32."""

    def __init__(self, loc, scale, dtype):
        self.dtype = dtype
        super().__init__(loc.to(dtype), scale.to(dtype))

    def rsample(self, sample_shape=()):
        noise = torch.randn(self._extended_shape(torch.Size(sample_shape)))
        return (self.loc.float() + self.scale.float() * noise).to(self.dtype)

    def expand(self, batch_shape, _instance=None):
        return Doubling(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.dtype)


@pytest.mark.parametrize("compile", ["off", "trace", "inductor"])
@pytest.mark.parametrize("stretch", [0.25, 1.3])
def test_a_khat_of_float32_is_that_of_float64(stretch, compile):
    """|log w| of millions, where one float32 number is a quarter nat or a half from the next."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        model, guide, x, evidence = large(dtype, stretch=stretch)
        found[dtype] = log_likelihood(
            model, guide, x, 300, seed=0, compile=compile if dtype == torch.float32 else "off"
        )
    narrow, wide = found[torch.float32], found[torch.float64]
    assert evidence.max() < -1e6
    # The float32 model's own numbers have roundings of some thousandths of a nat.
    assert_close(narrow.per_datum, wide.per_datum, rtol=0, atol=0.01)
    assert_close(narrow.ess, wide.ess, rtol=0.01, atol=0)
    assert_close(narrow.standard_errors, wide.standard_errors, rtol=0.01, atol=1e-3)
    # Below -1/2 the tail's end is near, which a rounding moves; weights are bounded in either case.
    assert_close(narrow.pareto_k.clamp(min=-0.5), wide.pareto_k.clamp(min=-0.5), rtol=0, atol=0.02)
    assert torch.equal(narrow.flagged, wide.flagged)
    assert narrow.flagged.all() == (stretch == 0.25)


def test_a_target_is_reached_at_such_magnitudes():
    model, guide, x, evidence = large(torch.float32, stretch=1.3)
    found = log_likelihood(model, guide, x, 3000, target_se=0.02, seed=0, compile="off")
    assert found.reached.all()
    assert found.samples_per_datum.max() < 3000
    assert ((found.per_datum - evidence).abs() < 5 * found.standard_errors + 0.01).all()


def test_the_exact_guide_is_bounded_at_such_magnitudes():
    model, guide, x, evidence = large(torch.float32)
    found = log_likelihood(model, guide, x, 300, seed=0)
    assert (found.pareto_k == -math.inf).all()
    assert_close(found.per_datum, evidence, rtol=0, atol=0.01)
    assert not found.flagged.any()


def test_what_float32_cannot_resolve_is_flagged_and_said():
    """With an offset of 10^4, the decoder's own numbers round by 1e-3: log w by that times the sum of residuals."""
    model, guide, x, _ = large(torch.float32, offset=1e4)
    found = log_likelihood(model, guide, x, 300, seed=0)
    assert found.pareto_k.isnan().all()
    assert found.flagged.all()
    assert found.unresolved.all()
    assert "k-hat unknown for 3 data" in str(found)
    assert "float32 cannot resolve these weights: use dtype=torch.float64 (model.double()" in str(found)
    summary = found.summary()
    assert summary["khat_above"]["num_left_out"] == 3
    assert math.isnan(summary["khat_above"]["mean"])
    assert (summary["num_unresolved"], summary["num_without_mass"]) == (3, 0)
    # As it says; the guide has the mean that float32 gave it.
    model, guide, x, _ = large(torch.float64, offset=1e4)
    remedied = log_likelihood(model, guide, x, 300, seed=0)
    assert not remedied.unresolved.any()
    assert "float32" not in str(remedied)


def test_large_data_behind_the_first_are_summed_as_they_need():
    """The pair is made with two data of some nats; the third is of millions, and its own roundings are measured."""
    model, guide, x, evidence = large(torch.float32)
    small = torch.cat([x[:2] / 1e3, x[2:]])
    with run_sizes(head=2):
        found = log_likelihood(model, guide, small, 300, seed=0)
    assert evidence[2] < -1e6
    assert_close(found.per_datum[2], evidence[2], rtol=0, atol=0.01)
    assert not found.unresolved.any()


def test_data_without_mass_are_flagged_and_counted():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(z - 9, z + 9, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    found = log_likelihood(model, guide, torch.tensor([0.0, 100.0]), 300, seed=0)
    assert found.per_datum[1] == -math.inf
    assert found.pareto_k[0] == -math.inf
    assert found.pareto_k[1].isnan()
    assert found.flagged.tolist() == [False, True]
    assert "k-hat > 0.60 for 0.0 % of 1 datum, unknown for 1 of 2)" in str(found)
    assert "1 of 2 data have no weight above 0: log p^ is -inf" in str(found)
    assert "float32" not in str(found)
    assert found.summary()["num_without_mass"] == 1


# ---------------------------------------------------------------- what it says about itself


def test_a_hopeless_guide_is_flagged(make_linear_gaussian):
    case = make_linear_gaussian(orthogonal=True)

    def narrow(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", case.diagonal(x, shift=0.0, stretch=0.2))

    x = case.data(40)
    found = log_likelihood(case.model, narrow, x, 2000, seed=0)
    assert found.flagged.double().mean() > 0.9
    assert "k-hat > 0.70 for" in str(found)
    assert "most weights have too heavy a tail: the bound is loose" in str(found)
    assert found.mean < case.evidence(x).mean().item()
    good = log_likelihood(case.model, case.inexact_guide, x, 2000, seed=0)
    assert not good.flagged.any()
    assert "too heavy" not in str(good)


def test_few_samples_have_no_khat(linear_gaussian):
    x = linear_gaussian.data(3)
    found = log_likelihood(linear_gaussian.model, linear_gaussian.inexact_guide, x, 25)
    assert found.pareto_k.isnan().all()
    assert "k-hat needs K >= 26; 3 data)" in str(found)
    assert found.summary()["khat_above"]["num_left_out"] == 3
    assert math.isnan(found.khat_above.mean)
    found = log_likelihood(linear_gaussian.model, linear_gaussian.inexact_guide, x, 26)
    assert found.pareto_k.isfinite().all()
    assert "k-hat > 0.29 for" in str(found)


def test_one_sample_has_no_error(linear_gaussian):
    found = log_likelihood(linear_gaussian.model, linear_gaussian.inexact_guide, linear_gaussian.data(3), 1)
    assert found.standard_errors.isnan().all()
    assert "Monte Carlo s.e. unknown" in str(found)


def test_the_line_it_prints():
    from pyro_vae.evaluation import LogLikelihood

    n = 4
    result = LogLikelihood(
        per_datum=torch.tensor([-87.0, -86.0, -88.0, -87.0]).double(),
        standard_errors=torch.full((n,), 0.02).double(),
        ess=torch.full((n,), 100.0).double(),
        pareto_k=torch.tensor([0.1, 0.2, 0.9, 0.3]).double(),
        num_samples=5000,
        without_mass=torch.zeros(4, dtype=torch.bool),
        lost=torch.zeros(4, dtype=torch.bool),
        datum="image",
    )
    assert str(result) == (
        "log p(x) >= -87.00 nats/image (Monte Carlo s.e. 0.01, data s.e. 0.41; K = 5000; "
        "k-hat > 0.70 for 25.0 % of 4 images)"
    )
    assert result.summary()["khat_above"]["mean"] == 0.25
    assert result.summary()["log_likelihood"]["mean"] == -87.0


def test_the_line_it_prints_under_a_target():
    from pyro_vae.evaluation import LogLikelihood

    result = LogLikelihood(
        per_datum=torch.tensor([-87.0, -86.0, -88.0, -87.0]).double(),
        standard_errors=torch.tensor([0.04, 0.03, 0.05, 0.08], dtype=torch.float64),
        ess=torch.full((4,), 100.0).double(),
        pareto_k=torch.tensor([0.4, 0.6, 0.65, 0.9]).double(),
        num_samples=5000,
        without_mass=torch.zeros(4, dtype=torch.bool),
        lost=torch.zeros(4, dtype=torch.bool),
        datum="image",
        target_se=0.05,
        num_deciding=320,
        chosen_samples=torch.tensor([128, 640, 2176, 4672]),
    )
    assert str(result) == (
        "log p(x) >= -87.00 nats/image (Monte Carlo s.e. 0.027, data s.e. 0.41; K = 128 to 4672, 1904 on average "
        "after 320 that chose it; target s.e. 0.05 reached for 75.0 %, bias about -0.0014; "
        "k-hat > its threshold for 25.0 % of 4 images)"
    )
    assert_close(result.khat_thresholds[:2], 1 - 1 / torch.tensor([128.0, 640]).double().log10())
    assert result.khat_thresholds[2:].tolist() == [0.7, 0.7]
    assert result.flagged.tolist() == [False, False, False, True]
    assert result.bias.tolist() == pytest.approx([-0.0008, -0.00045, -0.00125, -0.0032])
    found = result.summary()
    expected = {"target_se": 0.05, "share_reached": 0.75, "least_samples": 128, "most_samples": 4672}
    assert {key: found[key] for key in expected} == expected
    assert (found["mean_samples"], found["num_deciding"]) == (1904, 320)
    assert found["bias"] == pytest.approx(-0.0014250)


# ---------------------------------------------------------------- other routes to the same numbers


def test_the_graph_equals_the_eager_path_under_the_same_seed(monkeypatch):
    model, guide = VAE((1, 4, 4), 3, (8,)), MeanFieldGuide((1, 4, 4), 3, (8,))
    x = torch.rand(6, 1, 4, 4).round()
    captures = []
    real = term_draws.capture
    monkeypatch.setattr(term_draws, "capture", lambda *args: captures.append(None) or real(*args))
    with run_sizes(rows=4, head=20):
        # 105 calls or more, which are worth a graph.
        results = [log_likelihood(model, guide, x, 70, seed=5, compile=level) for level in ("off", "auto")]
    assert len(captures) == 1
    assert_close(results[1].per_datum, results[0].per_datum)
    assert_close(results[1].ess, results[0].ess, rtol=1e-4, atol=0)


def test_what_cannot_be_captured_is_run_as_it_is(linear_gaussian, caplog):
    case = linear_gaussian

    def branching(x):
        if x.sum() > 1e9:
            raise AssertionError
        return case.exact_guide(x)

    x = case.data(4)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), run_sizes(rows=4):
        found = log_likelihood(case.model, branching, x, 100)
    (record,) = caplog.records
    assert record.getMessage().startswith("log_likelihood: runs without a graph, which is slower: ")
    assert "\n" not in record.getMessage()
    assert_close(found.per_datum, case.evidence(x), **EXACT)


@pytest.mark.parametrize("level", ["off", "trace", "inductor"])
def test_the_evidence_at_every_level(make_linear_gaussian, level):
    """The mean within 4 standard errors of the closed form; under one seed within rounding of Pyro's own run."""
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(500)
    found = log_likelihood(case.model, case.inexact_guide, x, 250, seed=0, compile=level)
    assert abs(found.mean - case.evidence(x).mean().item()) < 4 * found.standard_error
    by_pyro = log_likelihood(case.model, case.inexact_guide, x, 250, seed=0, compile="off")
    assert_close(found.per_datum, by_pyro.per_datum, rtol=1e-10, atol=1e-10)


def test_a_level_chosen_on_the_way_changes_nothing_but_rounding(monkeypatch):
    """The graph is exchanged after the second chunk of many."""
    model, guide = VAE((1, 4, 4), 3, (8,)), MeanFieldGuide((1, 4, 4), 3, (8,))
    x = torch.rand(40, 1, 4, 4).round()
    exchanged = []
    monkeypatch.setattr(term_draws, "expected_seconds", lambda _: 0.0)
    monkeypatch.setattr(term_draws, "native_draws", lambda draws, *_: exchanged.append(draws) or draws)
    with run_sizes(rows=20, head=20, calls=2):
        found, expected = (log_likelihood(model, guide, x, 70, seed=5, compile=level) for level in ("auto", "trace"))
    assert len(exchanged) == 1
    assert torch.equal(found.per_datum, expected.per_datum)


def test_a_seed_repeats_and_leaves_the_global_generator_alone(linear_gaussian):
    case = linear_gaussian
    x = case.data(3)
    before = torch.get_rng_state()
    first, second, other = (log_likelihood(case.model, case.inexact_guide, x, 30, seed=s) for s in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.per_datum, second.per_datum)
    assert not torch.equal(first.per_datum, other.per_datum)
    unseeded = [log_likelihood(case.model, case.inexact_guide, x, 30) for _ in range(2)]
    assert not torch.equal(unseeded[0].per_datum, unseeded[1].per_datum)


def test_modules_are_evaluated_in_evaluation_mode_and_come_back():
    """Dropout off, running statistics used and not moved; also when the module is inside a function."""
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    guide, model = MeanFieldGuide((4,), 2, encoder=net), VAE((4,), 2, ())
    net[1].eval()
    x = torch.rand(8, 4).round()
    for program in (guide, lambda x: guide(x)):
        results = [log_likelihood(model, program, x, 5, seed=0) for _ in range(2)]
        assert torch.equal(results[0].per_datum, results[1].per_datum)
        assert (guide.training, net[0].training, net[1].training) == (True, True, False)
        assert net[0].num_batches_tracked == 0


# ---------------------------------------------------------------- memory


def test_no_call_sees_more_rows_than_fit(linear_gaussian):
    case = linear_gaussian
    num_rows = []

    def guide(x):
        z = case.exact_guide(x)
        num_rows.append(z.numel() // 3)
        return z

    # Two samples of the head of the data, to see whether samples vectorize, are the one exception.
    for n, num_samples in ((1, 4000), (10, 1300), (1200, 3)):
        with run_sizes(rows=500):
            log_likelihood(case.model, guide, case.data(n), num_samples, seed=0)
    assert max(num_rows) <= 2 * 500
    assert sorted(num_rows)[-4] <= 500


MEMORY = """
import resource, torch, pyro_vae
from pyro_vae.models import VAE
from pyro_vae.programs.pair import Pair
from pyro_vae.parts import make_pair
from pyro_vae.guides import MeanFieldGuide
torch.manual_seed(0)
model, guide = VAE((20,), 2, ()), MeanFieldGuide((20,), 2, ())
x = torch.rand(1, 20).round()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pyro_vae.log_likelihood(model, guide, x, 200_000)
start = peak()
pyro_vae.log_likelihood(model, guide, x, 1_800_000)
print(peak() - start)
"""


def test_memory_does_not_grow_with_the_samples():
    """1.6 million more samples would be 128 MB of logits, or 13 MB of weights in double: 8 MB are given."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 8_000


REFUSED = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


def with_memory_for(case, most, seen):
    """The exact guide, on a machine where no more than so many rows fit; what it was asked for goes into ``seen``."""

    def guide(x):
        z = case.exact_guide(x)
        seen.append(z.numel() // 3)
        if seen[-1] > most:
            raise RuntimeError(REFUSED)
        return z

    return guide


@pytest.mark.parametrize("level", ["off", "trace"])
@pytest.mark.parametrize(("n", "num_samples"), [(1, 1400), (9, 120), (100, 11)])
def test_rows_that_do_not_fit_are_halved_once_and_every_datum_keeps_its_samples(
    linear_gaussian, caplog, n, num_samples, level
):
    """An exact guide gives every weight the same value: the ESS is the number of samples that were counted."""
    case, seen = linear_gaussian, []
    x = case.data(n)
    # Of 10 rows there are 100 calls or more, which are worth a graph.
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), run_sizes(rows=10, head=2):
        found = log_likelihood(case.model, with_memory_for(case, 5, seen), x, num_samples, seed=0, compile=level)
    expected = "log_likelihood: out of memory; continues with 5 rows a call, half of before"
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert max(seen) > 5
    assert_close(found.per_datum, case.evidence(x), **EXACT)
    assert_close(found.ess, torch.full((n,), float(num_samples)).double(), **EXACT)


def test_memory_that_runs_out_on_the_way(make_linear_gaussian):
    """After half of the draws: the chunk that failed is drawn again, and the evidence is within 4 standard errors."""
    case, calls = make_linear_gaussian(orthogonal=True), []

    def failing_later(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", case.diagonal(x))
        calls.append(z.numel() // 3)
        if len(calls) > 60 and calls[-1] > 50:
            raise MemoryError
        return z

    x = case.data(40)
    with run_sizes(rows=100, head=100):
        found = log_likelihood(case.model, failing_later, x, 250, seed=0, compile="off")
    assert {rows > 50 for rows in calls[8:61]} == {True}
    assert max(calls[62:]) <= 50
    assert abs(found.mean - case.evidence(x).mean().item()) < 4 * found.standard_error


@pytest.mark.parametrize("subsample_size", [None, 4])
def test_memory_that_does_not_do_for_half_the_rows_either(linear_gaussian, subsample_size):
    case, p = linear_gaussian, linear_gaussian.model

    def model(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            if z.numel() > 12 * 3:
                raise RuntimeError(REFUSED)
            pyro.sample("x", dist.Normal(z @ p.loadings.T + p.bias, p.log_scale.exp()).to_event(1), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=subsample_size) as rows:
            pyro.sample("z", p.posterior(x[rows]))

    message = r"with 25 rows .*5 outputs.*Alloc"
    with pytest.raises(OutOfMemoryError, match=message), run_sizes(rows=50, head=6):
        log_likelihood(model, guide, case.data(12), 60)


def test_memory_that_does_not_do_for_the_first_look(linear_gaussian, caplog):
    """The pair is first run on 10 data, then on 5."""
    case, seen = linear_gaussian, []
    x = case.data(20)
    with run_sizes(rows=10, head=10):
        found = log_likelihood(case.model, with_memory_for(case, 10, seen), x, 3)
        with pytest.raises(OutOfMemoryError, match=r"with 5 rows .* half of before"):
            log_likelihood(case.model, with_memory_for(case, 4, []), x, 3)
    assert max(seen) == 20
    assert_close(found.per_datum, case.evidence(x), **EXACT)


# ---------------------------------------------------------------- bad input


def test_bad_input(linear_gaussian):
    model, guide = linear_gaussian.model, linear_gaussian.exact_guide
    x = linear_gaussian.data(4)
    with pytest.raises(ValueError, match="num_samples must be at least"):
        log_likelihood(model, guide, x, 0)
    with pytest.raises(ValueError, match="x: there are none"):
        log_likelihood(model, guide, x[:0], 5)
    with pytest.raises(ValueError, match="compile must be one of"):
        log_likelihood(model, guide, x, 5, compile="on")
    for value in (math.nan, math.inf):
        bad = x.clone()
        bad[2, 1] = value
        with pytest.raises(ValueError, match=r"x: 1 value .* index \(2, 1\)"):
            log_likelihood(model, guide, bad, 5)
    for target in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"a positive .* nats.*got {target}\."):
            log_likelihood(model, guide, x, 5, target_se=target)
    with pytest.raises(ValueError, match="a tuple that starts with one"):
        log_likelihood(model, guide, x.tolist(), 5)
    with pytest.raises(ValueError, match="LinearGaussian: x must have"):
        log_likelihood(model, guide, x[:, :3], 5)
    with pytest.raises(PairError, match="only in the model: z"):
        log_likelihood(model, lambda *_: None, x, 5)


def test_a_plate_that_draws_a_subsample_has_no_target(linear_gaussian):
    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            pyro.sample("z", linear_gaussian.model.posterior(x[rows]))

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.ones(3, 5).double(), 1.0).to_event(1), obs=x[rows])

    with pytest.raises(ValueError, match=r"target_se .*'data' .* 3 of 11"):
        log_likelihood(model, guide, linear_gaussian.data(11), 500, target_se=0.1)


def test_a_nan_weight_in_a_later_block_is_found(linear_gaussian):
    case = linear_gaussian

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            q = case.diagonal(x).base_dist
            loc = torch.where(x[:, :1] == 123.0, math.nan, q.loc)
            pyro.sample("z", dist.Normal(loc, q.scale, validate_args=False).to_event(1))

    x = case.data(9)
    x[7, 0] = 123.0
    with pytest.raises(NonFiniteError, match=r"\+inf for 1 of .* site 'z'"), run_sizes(rows=4, head=4):
        log_likelihood(case.model, guide, x, 1)


def test_many_outputs_a_datum_take_fewer_rows_and_give_the_same_number(monkeypatch):
    """A categorical likelihood: under a bound that leaves two rows a call, the same estimate within its errors."""
    torch.manual_seed(0)
    model, guide = make_pair((1, 3, 2), 2, (4,), likelihood="categorical(levels=16)")
    x = torch.randint(0, 16, (5, 1, 3, 2)) / 15
    assert Pair(model, guide, x).outputs == 6 * 16
    calls = []
    decode = model.likelihood.forward
    monkeypatch.setattr(model.likelihood, "forward", lambda z: calls.append(z.shape[:-1].numel()) or decode(z))
    wide = log_likelihood(model, guide, x, 2000, seed=0)
    assert max(calls) > 100
    calls.clear()
    with run_sizes(values=200):
        narrow = log_likelihood(model, guide, x, 2000, seed=1)
    assert max(calls) <= 2 * 5  # the pair's own probe: two samples of all data
    errors = (wide.standard_errors.square() + narrow.standard_errors.square()).sqrt()
    assert ((wide.per_datum - narrow.per_datum).abs() < 5 * errors).all()
