"""The fit of q* for each datum: where it ends, when it stops, and that data share slots without harm."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_vae.evaluation.gaps.local_maps import FAMILIES
from pyro_vae.evaluation.gaps.local_posterior import Fitted, LocalPosteriors
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair


def fit(pair, family="diagonal", **options):
    defaults = {
        "num_samples": 0, "step_samples": 32, "learning_rate": 0.02, "check_every": 50, "patience": 5,
        "max_steps": 5000,
    }  # fmt: skip
    local_map = FAMILIES[family](pair.joint.dim)
    with torch.no_grad(), pyro.validation_enabled(False):
        fitted = Fitted.together(list(LocalPosteriors(pair, local_map, **defaults | options)))
    return fitted.rows(fitted.index.argsort())


def excess(case, x, fitted):
    """How far a diagonal q* on top of the case's diagonal guide is below the best one's ELBO: exact, in nats.

    The best has the posterior's mean, and the precisions on its precision matrix's diagonal.
    """
    exact, start = case.model.posterior(x), case.diagonal(x)
    shift, log_stretch = fitted.theta.chunk(2, -1)
    loc = fitted.center + fitted.scale * shift + log_stretch.exp() * (start.mean - fitted.center)
    variance = (log_stretch.exp() * start.stddev).square()
    precision = exact.precision_matrix
    best = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())
    return kl_divergence(dist.MultivariateNormal(loc, variance.diag_embed()), exact) - best


def test_a_guide_that_is_exact_already_stops_when_patience_ends_and_stays_close(linear_gaussian):
    """All weights are equal there; on the fixed noise, and only there, some map may be better by a trifle."""
    x = linear_gaussian.data(5)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.exact_guide, x)
    fitted = fit(pair, "full_rank", patience=3, check_every=10)
    assert fitted.index.tolist() == [0, 1, 2, 3, 4]
    assert fitted.steps.tolist() == [30] * 5
    assert fitted.converged.all()
    assert fitted.theta.abs().max() < 0.1


def test_the_best_diagonal_gaussian_is_found(linear_gaussian):
    """To 0.01 nats, from 0.75 below it."""
    x = linear_gaussian.data(6)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.inexact_guide, x)
    fitted = fit(pair)
    assert fitted.converged.all()
    assert excess(linear_gaussian, x, fitted).max() < 0.01
    start = fitted.rows(torch.arange(6))
    start.theta = torch.zeros_like(start.theta)
    assert excess(linear_gaussian, x, start).min() > 0.5


@pytest.mark.parametrize("budget", [{"rows": 3 * 32}, {"parameters": 3 * 6}])
def test_data_take_turns_in_few_slots(linear_gaussian, budget):
    """5 data in 3 slots, for want of rows or of parameters: each comes out once, and every one of them well."""
    x = linear_gaussian.data(5)
    lengths = set()

    def guide(x):
        lengths.add(len(x))
        return linear_gaussian.inexact_guide(x)

    fitted = fit(FrozenPair("test", linear_gaussian.model, guide, x), **budget)
    assert lengths == {3, 4, 127}
    assert fitted.index.tolist() == list(range(5))
    assert fitted.converged.all()
    assert excess(linear_gaussian, x, fitted).max() < 0.01


def test_many_slots_shrink_when_few_are_busy(make_linear_gaussian):
    """40 data start at the optimum, one far from it: it goes on alone, in fewer rows, and gets there."""
    case = make_linear_gaussian(orthogonal=True)
    x = case.data(41)
    odd = x[20]

    def guide(x):
        far = 3.0 * (x == odd).all(-1, keepdim=True)
        exact = case.model.posterior(x)
        scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(exact.mean + far * scale, scale).to_event(1))

    fitted = fit(FrozenPair("test", case.model, guide, x))
    assert fitted.converged.all()
    assert fitted.steps[20] > fitted.steps.median()
    shift = fitted.theta[:, :3]
    assert (shift[20] + 3).abs().max() < 0.3
    assert shift[torch.arange(41) != 20].abs().max() < 0.1


def test_what_is_cut_off_has_not_converged(linear_gaussian):
    x = linear_gaussian.data(3)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.inexact_guide, x)
    fitted = fit(pair, max_steps=20, check_every=10)
    assert not fitted.converged.any()
    assert fitted.steps.tolist() == [20] * 3


def test_a_learning_rate_that_is_far_too_high_leaves_the_start(linear_gaussian):
    """The best of all checks is handed on, not the last parameters."""
    x = linear_gaussian.data(4)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.exact_guide, x)
    fitted = fit(pair, learning_rate=50.0, patience=2, check_every=4)
    assert_close(fitted.theta, torch.zeros_like(fitted.theta), rtol=0, atol=0)


def test_a_step_without_a_finite_gradient_is_left_out_and_a_datum_without_a_finite_elbo_leaves():
    """p(z | x) = N(0.8 x, 0.2). Below -0.6, three standard deviations away, densities are finite and gradients not."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
            mean = torch.where(z > -0.6, z + 0 * (z + 0.6).sqrt(), z)
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.where(x > -3, x, math.nan), 0.4))

    pair = FrozenPair("test", model, guide, torch.tensor([1.0, -4.0]).double())
    fitted = fit(pair, step_samples=20)
    assert fitted.steps[1] == 0
    assert fitted.converged.tolist() == [True, False]
    shift, log_stretch = fitted.theta[0]
    loc = fitted.center + fitted.scale * (shift + log_stretch.exp() * (1.0 - fitted.center) / fitted.scale)
    assert abs(loc[0, 0] - 0.8) < 0.05
    assert abs(0.4 * log_stretch.exp() - math.sqrt(0.2)) < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_q_star_has_the_density_that_it_is_given(linear_gaussian, family):
    """At any map, E[w] = p(x): the mean weight of q* within 4 standard errors of the evidence."""
    x = linear_gaussian.data(3)
    pair = FrozenPair("test", linear_gaussian.model, linear_gaussian.inexact_guide, x)
    local_map = FAMILIES[family](3)
    posteriors = LocalPosteriors(
        pair, local_map, num_samples=20_000, step_samples=100, learning_rate=0.02, check_every=50, patience=5,
        max_steps=50,
    )  # fmt: skip
    zeros, ones = torch.zeros(3, 3).double(), torch.ones(3, 3).double()
    theta = local_map.start(3, zeros)
    theta = theta + 0.1 * torch.randn_like(theta)
    none = torch.zeros(3)
    fitted = Fitted(torch.arange(3), theta, zeros, ones, ones == 1, none, none)
    with torch.no_grad(), pyro.validation_enabled(False):
        drawn = list(posteriors.weights(fitted, 20_000))
    for log_weights in (torch.cat(some) for some in zip(*drawn, strict=True)):
        weights = (log_weights - linear_gaussian.evidence(x)).exp()
        assert ((weights.mean(0) - 1).abs() < 4 * weights.std(0) / math.sqrt(len(weights))).all()
