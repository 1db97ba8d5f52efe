"""Weights of millions of nats under every part: exact in float64, in float32 right or said to be lost."""

import copy

import pytest
import torch
from every_part import TOGETHER, made
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_vae import elbo_terms, log_weights
from pyro_vae.programs.modules import as_args
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.testing.suite import latent_sites

N = 5

NOT_LINEAR = ("negative_binomial", "zero_inflated_negative_binomial", "student_t", "poisson")
"""Likelihoods whose log-density falls like the logarithm of the decoder's numbers, or like their exponential: these
cannot make weights of millions of nats, or make such that float64 does not resolve them either."""

PAIRS = [
    parts._replace(likelihood="bernoulli") if parts.likelihood.startswith(NOT_LINEAR) else parts for parts in TOGETHER
]


def large(parts, factor):
    """A float32 pair whose decoder's numbers are as large as the factor, and data of hundreds where they may be."""
    x, model, guide = made(parts)
    x, *further = as_args(x)
    if parts.likelihood.startswith("gaussian"):
        x = 255 * x
    last = [module for module in model.likelihood.modules() if isinstance(module, nn.Linear)][-1]
    # Of the means alone, where scales are predicted as well.
    rows = slice(0, x[0].numel()) if "predicted" in parts.likelihood else slice(None)
    with torch.no_grad():
        last.weight[rows] *= factor
    return tuple(column[:N] for column in (x, *further)), model.eval(), guide.eval()


def wide(x):
    """All tensors of the data, and those of numbers in float64."""
    return tuple(column.double() if column.is_floating_point() else column for column in x)


def terms_of(trace):
    """Log-probabilities of a trace, ``(batch,)``, each site summed in float64."""
    trace.compute_log_prob()
    found = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    return sum(value.double().reshape(N, -1).sum(1) for value in found if value.ndim)


@pytest.mark.parametrize("parts", PAIRS, ids=lambda parts: parts.guide.partition("(")[0])
def test_a_pair_of_large_numbers(parts):
    x, model, guide = large(parts, 3e6)
    wide_model, wide_guide = copy.deepcopy((model, guide))
    wide_model.double(), wide_guide.double()
    with torch.no_grad():
        # In float64, by plain Pyro from the same noise.
        torch.manual_seed(1)
        drawn = poutine.trace(wide_guide).get_trace(*wide(x))
        joint = poutine.trace(poutine.replay(wide_model, trace=drawn)).get_trace(*wide(x))
        expected = terms_of(joint) - terms_of(drawn)
        torch.manual_seed(1)
        found = log_weights(wide_model, wide_guide, wide(x), 1)[0]
    assert expected.abs().min() > 2e5
    assert_close(found, expected, rtol=1e-12, atol=1e-9)
    options = {"seed": 0, "compile": "off", "progress": False}
    assert not elbo_terms(wide_model, wide_guide, x, 2, **options).unresolved.any()
    said = elbo_terms(model, guide, x, 2, **options)
    assert said.unresolved.all()
    assert UNRESOLVED in str(said)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [3e4, 3e6])
@pytest.mark.parametrize("parts", PAIRS, ids=lambda parts: parts.guide.partition("(")[0])
def test_float32_is_right_where_nothing_is_said(parts, factor):
    """The exact log-joint at the draw that float32 made, less the density that float32 gave it."""
    x, model, guide = large(parts, factor)
    exact_model = copy.deepcopy(model).double()
    with torch.no_grad():
        torch.manual_seed(1)
        drawn = poutine.trace(guide).get_trace(*x)
        values = {name: site["value"].double() for name, site in latent_sites(drawn).items()}
        exact = terms_of(poutine.trace(poutine.condition(exact_model, data=values)).get_trace(*wide(x)))
        torch.manual_seed(1)
        found = log_weights(model, guide, x, 1)[0]
        log_q = terms_of(drawn)
    lost = elbo_terms(model, guide, x, 2, seed=0, compile="off", progress=False).unresolved
    off = (found - (exact - log_q)).abs()
    assert (off < 0.1)[~lost].all()
    if factor == 3e4 and parts.likelihood.startswith(("bernoulli", "continuous", "categorical")):
        assert not lost.any()
