"""A K for each datum: what it costs, that it is spent where it is needed, and that choosing it adds no bias."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import log_likelihood, log_weights
from pyro_vae.evaluation.evidence.adaptive import deciding_samples, samples_needed
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.graphs import levels as term_draws
from pyro_vae.parts import make_pair
from pyro_vae.programs.layouts import OneByOne
from pyro_vae.programs.pair import Pair

EXACT = {"rtol": 1e-8, "atol": 1e-8}


def guide_of(case, shift, stretch):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", case.diagonal(x, shift, stretch))

    return guide


def copies(case, count):
    """Repetitions: one datum many times over."""
    return case.data(1).expand(count, -1).contiguous()


# ---------------------------------------------------------------- honest errors


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.2), (1.0, 1.5)])
def test_the_bias_is_that_of_a_fixed_k_and_the_errors_are_calibrated(make_linear_gaussian, shift, stretch):
    """Guides whose weights are bounded, 1500 repetitions, target 0.05: 4 standard errors of the mean are 0.005.

    Intervals of 2 standard errors about the estimate less its bias cover the evidence in 95.4 % if all is normal; of
    1500 the share has a standard error of 0.5 %, so that 93 to 98 % is more than four of them to either side.
    """
    case = make_linear_gaussian(orthogonal=True)
    x = copies(case, 1500)
    found = log_likelihood(case.model, guide_of(case, shift, stretch), x, 5000, target_se=0.05, seed=0)
    error = found.per_datum - case.evidence(x)
    standard_error = error.std() / math.sqrt(len(x))
    assert abs(error.mean() - found.bias.mean()) < 4 * standard_error
    covered = ((error - found.bias).abs() < 2 * found.standard_errors).double().mean()
    assert 0.93 < covered < 0.98
    assert found.reached.double().mean() > 0.95
    assert found.samples_per_datum.max() < 5000
    # A fixed K, as large as the adaptive one on average, has the same error and the same bias.
    samples = round(found.samples_per_datum.double().mean().item())
    fixed = log_likelihood(case.model, guide_of(case, shift, stretch), x, samples, seed=1)
    fixed_error = fixed.per_datum - case.evidence(x)
    assert fixed_error.std().item() == pytest.approx(error.std().item(), rel=0.1)
    assert (error.mean() - fixed_error.mean()).abs() < 4 * math.sqrt(2) * standard_error


@pytest.mark.slow
def test_choosing_k_by_other_samples_is_what_keeps_the_bias_small(make_linear_gaussian):
    """Heavy tails: stopping at the first doubling whose own error is below 0.1 adds more bias than it states.

    By more than 4 standard errors, in 1500 repetitions; with K chosen by samples that do not enter, by less.
    """
    case = make_linear_gaussian(orthogonal=True)
    guide = guide_of(case, 0.5, 0.8)
    x = copies(case, 1500)
    evidence = case.evidence(x)

    def excess(estimate, standard_errors):
        error = estimate - evidence + standard_errors.square() / 2
        return (error.mean() / (error.std() / math.sqrt(len(x)))).item()

    found = log_likelihood(case.model, guide, x, 2500, target_se=0.1, seed=0)
    assert abs(excess(found.per_datum, found.standard_errors)) < 4

    weights = log_weights(case.model, guide, x, 160)
    estimate, error = torch.empty(2, len(x), dtype=torch.float64)
    running = torch.ones(len(x), dtype=torch.bool)
    while running.any() and len(weights) < 2500:
        w = (weights - evidence).exp()
        estimate[running] = (w.mean(0).log() + evidence)[running]
        error[running] = (w.std(0) / w.mean(0) / math.sqrt(len(w)))[running]
        running &= error > 0.1
        weights = torch.cat([weights, log_weights(case.model, guide, x, len(weights))])
    assert excess(estimate, error) < -4


# ---------------------------------------------------------------- samples where they are needed


def easy_and_hard(case):
    """A pair of two arguments, whose guide is exact for some data and wrong for others."""

    p = case.model

    def model(x, hard):
        return p(x)

    def guide(x, hard):
        exact, wrong = p.posterior(x), case.diagonal(x, 1.0, 1.5).base_dist
        scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        loc = torch.where(hard.unsqueeze(-1), wrong.loc, exact.mean)
        scale = torch.where(hard.unsqueeze(-1), wrong.scale, scale)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide


def test_samples_go_where_the_guide_is_wrong_and_results_to_their_data(make_linear_gaussian):
    """Every other datum is hard, so that blocks of like demand are in another order than the data."""
    case = make_linear_gaussian(orthogonal=True)
    x, hard = case.data(33), torch.arange(33) % 2 == 1
    found = log_likelihood(*easy_and_hard(case), (x, hard), 1500, target_se=0.08, seed=0)
    easy = found.samples_per_datum[~hard]
    # One block, of at most two data, may hold both kinds.
    assert (easy == 128).sum() >= len(easy) - 1
    assert found.samples_per_datum[hard].min() > 256
    assert found.samples_per_datum.dtype == torch.int64
    assert_close(found.per_datum[~hard], case.evidence(x)[~hard], **EXACT)
    assert_close(found.ess[~hard], found.samples_per_datum[~hard].double(), **EXACT)
    error = (found.per_datum - case.evidence(x))[hard]
    assert (error.abs() < 5 * found.standard_errors[hard]).all()
    assert error.std() > 0.02
    assert found.reached.all()


def test_each_datum_is_drawn_as_often_as_is_said_and_no_more_than_the_budget(make_linear_gaussian, monkeypatch):
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(32)
    drawn = torch.zeros(32, dtype=torch.int64)
    terms = Pair.terms

    def counted(self, block, num_samples, *rest):
        which = (block[0][:, :1] == x[:, 0]).nonzero()[:, 1]
        drawn[which] += num_samples
        return terms(self, block, num_samples, *rest)

    monkeypatch.setattr(Pair, "terms", counted)
    found = log_likelihood(case.model, guide_of(case, 0.5, 0.8), x, 1000, target_se=0.08, seed=0, compile="off")
    assert torch.equal(drawn, found.num_deciding + found.samples_per_datum)
    assert drawn.max() == 128 + (1000 - 128) // 64 * 64 <= 1000
    assert drawn.min() < 1000 - 128


def test_a_tail_that_is_too_heavy_takes_the_whole_budget(make_linear_gaussian):
    case = make_linear_gaussian(orthogonal=True)
    found = log_likelihood(case.model, guide_of(case, 0.0, 0.2), case.data(40), 2000, target_se=10.0, seed=0)
    assert (found.samples_per_datum == 1728).double().mean() > 0.9
    assert found.flagged.double().mean() > 0.9


def test_a_budget_too_small_to_decide_on_is_spent_as_a_fixed_k(linear_gaussian):
    case = linear_gaussian
    x = case.data(5)
    found = log_likelihood(case.model, case.inexact_guide, x, 255, target_se=1e-3, seed=2)
    fixed = log_likelihood(case.model, case.inexact_guide, x, 255, seed=2)
    assert torch.equal(found.per_datum, fixed.per_datum)
    assert found.samples_per_datum.tolist() == fixed.samples_per_datum.tolist() == [255] * 5
    assert found.num_deciding == 0
    assert not found.reached.any()


# ---------------------------------------------------------------- the stream


def test_both_rounds_run_on_one_graph_and_give_what_pyro_gives(monkeypatch):
    torch.manual_seed(0)
    model, guide = make_pair((1, 4, 4), 3, (8,))
    x = torch.rand(40, 1, 4, 4).round()
    captures = []
    real = term_draws.capture
    monkeypatch.setattr(term_draws, "capture", lambda *args: captures.append(None) or real(*args))
    by_pyro = log_likelihood(model, guide, x, 1500, target_se=0.05, seed=5, compile="off")
    assert not captures
    by_graph = log_likelihood(model, guide, x, 1500, target_se=0.05, seed=5, compile="trace")
    assert len(captures) == 1
    assert by_graph.samples_per_datum.unique().numel() > 2
    assert torch.equal(by_graph.samples_per_datum, by_pyro.samples_per_datum)
    assert_close(by_graph.per_datum, by_pyro.per_datum)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_rows_that_do_not_fit_are_halved_and_every_datum_keeps_its_samples(linear_gaussian, caplog, n):
    case = linear_gaussian

    def guide(x):
        z = case.exact_guide(x)
        if z.numel() // 3 > 25:
            raise MemoryError
        return z

    x = case.data(n)
    with run_sizes(rows=50, head=10, blocks=1):
        found = log_likelihood(case.model, guide, x, 400, target_se=0.1, seed=0, compile="off")
    assert [record.getMessage()[:30] for record in caplog.records] == ["log_likelihood: out of memory;"]
    assert_close(found.per_datum, case.evidence(x), **EXACT)
    assert_close(found.ess, torch.full((n,), 128.0).double(), **EXACT)


def test_many_outputs_a_datum_leave_few_rows_a_call(linear_gaussian):
    case, rows = linear_gaussian, []

    def guide(x):
        rows.append(case.exact_guide(x)[..., 0].numel())

    x = case.data(20)
    with run_sizes(values=35, head=2):
        found = log_likelihood(case.model, guide, x, 400, target_se=0.1, seed=0)
    assert max(rows) <= 35 // 5
    assert_close(found.per_datum, case.evidence(x), **EXACT)
    assert_close(found.ess, torch.full((20,), 128.0).double(), **EXACT)


def test_samples_that_are_run_one_by_one(make_linear_gaussian, monkeypatch):
    """All data are one block then: 64 samples a call of the terms, which draws them one after the other."""
    monkeypatch.setattr(Pair, "layout", OneByOne())
    case = make_linear_gaussian(orthogonal=True)
    x, hard = case.data(20), torch.arange(20) == 7
    found = log_likelihood(*easy_and_hard(case), (x, hard), 320, target_se=0.2, seed=0)
    assert_close(found.per_datum[~hard], case.evidence(x)[~hard], **EXACT)
    assert found.samples_per_datum.unique().numel() == 1
    assert_close(found.ess[~hard], found.samples_per_datum[~hard].double(), **EXACT)
    assert found.standard_errors[hard] > 0.01


# ---------------------------------------------------------------- how many


def test_the_samples_that_decide_are_a_share_of_the_budget_and_leave_enough():
    for budget in (1, 255, 256, 1000, 1024, 1025, 5000, 100_000):
        first = deciding_samples(budget)
        assert first == 0 or budget - first >= 128
        assert first % 64 == 0
        assert first <= max(128, budget / 8 + 64)
    assert deciding_samples(255) == 0
    assert deciding_samples(256) == 128


def test_what_says_nothing_about_its_error_needs_all():
    """Weights of zero (a NaN error), no k-hat, an infinite one, and one just above the threshold 1 - 1 / log10 K."""
    errors = torch.tensor([math.nan, 0.1, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
    khat = torch.tensor([0.1, math.nan, math.inf, 0.5255, 0.5254, -math.inf]).double()
    found = samples_needed(errors, khat, num_samples=128, target_se=0.1, most=960)
    assert found.tolist() == [960, 960, 960, 960, 192, 128]
