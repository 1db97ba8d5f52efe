"""Sizes of runs: which hold where, and that every evaluation cuts its work by those that hold."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_vae import (
    ais,
    elbo_terms,
    latent_statistics,
    log_likelihood,
    reference_posterior,
    sbc,
    to_inference_data,
)
from pyro_vae.evaluation import bdmc, evidence_budget, guide_error
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.evaluation.over_data.latent_draws import LatentDraws
from pyro_vae.evaluation.over_data.run_sizes import RunSizes, current_sizes, run_sizes


def test_sizes_hold_inside_the_block_and_in_its_thread():
    with run_sizes(rows=20):
        with run_sizes(head=5):
            assert current_sizes() == RunSizes(rows=20, head=5)
        assert current_sizes() == RunSizes(rows=20)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(current_sizes).result() == RunSizes()
    assert current_sizes() == RunSizes()


def test_an_error_ends_the_block():
    with pytest.raises(ZeroDivisionError), run_sizes(rows=3):
        raise ZeroDivisionError
    assert current_sizes() == RunSizes()


def test_a_size_there_is_none_of_is_refused():
    with pytest.raises(TypeError, match="columns"), run_sizes(columns=3):
        pass


def test_runs_that_began_in_the_block_go_on_with_its_sizes(linear_gaussian):
    case = linear_gaussian
    with run_sizes(rows=6):
        runs = iter(LatentDraws("here", case.model, case.inexact_guide, case.data(9), 4, None, False))
        next(runs)
    left = [math.prod(drawn.run.shape) for drawn in runs]
    assert sum(left) == 9 * 4 - 4
    assert max(left) <= 6


ANNEALED = {"num_chains": 2, "num_temperatures": 3, "burn_in": 2, "num_leapfrog": 1, "seed": 0}


def referenced(model, x):
    return reference_posterior(model, x, num_chains=2, num_samples=20, warmup=10, seed=0)


def judged(model, guide, x):
    """So few draws are no reference; as many as are needed would take long."""
    return guide_error(replace(referenced(model, x), r_hat=torch.ones(len(x), 3)), model, guide, x, num_samples=40)


CALLS = {
    "log_likelihood": lambda model, guide, x: log_likelihood(model, guide, x, 40),
    "log_likelihood to a target": lambda model, guide, x: log_likelihood(model, guide, x, 400, target_se=0.1),
    "elbo_terms": lambda model, guide, x: elbo_terms(model, guide, x, 40),
    "evidence_budget": lambda model, guide, x: evidence_budget(model, guide, x, ks=(1, 40)),
    "latent_statistics": lambda model, guide, x: latent_statistics(model, guide, x, num_samples=40),
    "to_inference_data": lambda model, guide, x: to_inference_data(model, guide, x, num_samples=40, num_chains=1),
    "ais": lambda model, _, x: ais(model, x, **ANNEALED),
    "bdmc": lambda model, _, x: bdmc(model, x, **ANNEALED),
    "sbc": lambda model, guide, x: sbc(model, guide, x, num_data=30, num_draws=3),
    "reference_posterior": lambda model, _, x: referenced(model, x[:2]),
    "guide_error": lambda model, guide, x: judged(model, guide, x[:2]),
    "a frozen pair": lambda model, guide, x: FrozenPair("here", model, guide, x),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_evaluation_cuts_its_runs_by_them(linear_gaussian, call):
    """A pair is first run with two samples of the head; all other runs have at most ``rows`` rows."""
    case, x, rows = linear_gaussian, linear_gaussian.data(30), []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            rows.append(z[..., 0].numel())
            mean = z @ case.model.loadings.T + case.model.bias
            pyro.sample("x", dist.Normal(mean, case.model.log_scale.exp()).to_event(1), obs=x)

    with run_sizes(rows=6, head=4):
        CALLS[call](model, case.inexact_guide, x)
    assert max(rows) <= 2 * 4
    rows.clear()
    CALLS[call](model, case.inexact_guide, x)
    assert max(rows) > 2 * 4
