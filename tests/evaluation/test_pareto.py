"""k-hat from the tail alone equals ArviZ's PSIS on all weights."""

import math

import pytest
import torch
from arviz_psis import khat_of_all
from torch.testing import assert_close

from pyro_vae.evaluation.pareto import khat_threshold, pareto_k, tail_length

TAILS = {
    "heavy": lambda n: 2.0 * torch.distributions.Exponential(1.0).sample((4, n)),  # Pareto weights, k = 2
    "borderline": lambda n: 0.7 * torch.distributions.Exponential(1.0).sample((4, n)),
    "light": lambda n: torch.rand(4, n).log(),  # uniform weights, k = -1
    "gaussian": lambda n: 3.0 * torch.randn(4, n) - 90.0,
}


def from_tail(weights):
    n = weights.shape[1]
    return pareto_k(weights.topk(tail_length(n) + 1, dim=1).values, n)


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("num_samples", [30, 225, 230, 1000, 5001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tail_is_enough(name, num_samples, dtype):
    torch.set_default_dtype(torch.float64)
    try:
        weights = TAILS[name](num_samples).to(dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(from_tail(weights), khat_of_all(weights), rtol=1e-10, atol=1e-10)
    assert from_tail(weights).dtype == torch.float64


def test_one_datum():
    weights = torch.randn(1, 500, dtype=torch.float64)
    assert from_tail(weights).shape == (1,)


def test_known_tails():
    """20000 Pareto weights: the fit's standard error is about (1 + k) / sqrt(425) = 0.1; four of them."""
    for k in (0.3, 1.5):
        weights = k * torch.distributions.Exponential(torch.ones(())).sample((20, 20_000)).double()
        found = from_tail(weights)
        assert (found - k).abs().max() < 4 * (1 + k) / math.sqrt(tail_length(20_000))
        assert abs(found.mean().item() - k) < 4 * (1 + k) / math.sqrt(20 * tail_length(20_000)) + 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_weights_are_minus_infinity(dtype):
    constant = torch.full((2, 400), -543.21, dtype=dtype)
    assert (from_tail(constant) == -math.inf).all()
    rounding = constant * (1 + 4 * torch.finfo(dtype).eps * torch.randn(2, 400).to(dtype))
    assert (from_tail(rounding) == -math.inf).all()


def test_too_few_samples_have_none():
    assert pareto_k(torch.randn(3, 6), 25).isnan().all()
    assert pareto_k(torch.randn(3, 7).double(), 26).isfinite().all()


def test_a_tail_of_one_value_above_the_rest_is_minus_infinity():
    assert (pareto_k(torch.tensor([[-3.0, 0, 0, 0, 0, 0, 0]]), 26) == -math.inf).all()


@pytest.mark.parametrize(("num_samples", "length"), [(25, 5), (26, 6), (100, 20), (225, 45), (226, 46), (1000, 95)])
def test_tail_length(num_samples, length):
    assert tail_length(num_samples) == length == math.ceil(min(num_samples / 5, 3 * num_samples**0.5))


@pytest.mark.parametrize(("num_samples", "threshold"), [(1, 0.0), (10, 0.0), (100, 0.5), (2155, 0.7), (10**6, 0.7)])
def test_threshold(num_samples, threshold):
    assert khat_threshold(num_samples) == pytest.approx(threshold, abs=1e-4)
