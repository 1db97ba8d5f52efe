"""k-hat from the tail alone equals ArviZ's PSIS on all weights."""

import math

import pytest
import torch
from arviz_psis import khat_of_all
from torch.testing import assert_close

from pyro_vae.evaluation.evidence.pareto import khat_threshold, pareto_k, tail_length

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


def test_weights_that_are_all_zero_have_none():
    assert pareto_k(torch.full((2, 7), -math.inf), 26).isnan().all()
    some = torch.tensor([[-math.inf] * 5 + [0.0, 1.0]])
    assert pareto_k(some, 26).item() == khat_of_all(torch.cat([torch.full((1, 19), -math.inf), some], 1).double())


@pytest.mark.parametrize(
    ("spread", "rounding", "expected"),
    [(3.0, 1e-6, "a number"), (3.0, 0.09, "a number"), (3.0, 0.11, "unknown"), (3.0, 0.7, "unknown"),
     (0.4, 0.09, "unknown"), (0.004, 1e-3, "bounded"), (0.02, 3e-3, "a number"), (0.0, 3e-3, "unknown"),
     (0.0, 1e-3, "bounded"), (0.0, 0.0, "bounded")],
)  # fmt: skip
def test_a_tail_is_held_against_the_roundings(spread, rounding, expected):
    """Wider than five roundings of at most 0.1 nats: a number. Constant to 0.01 nats for all one can see: -inf."""
    tail = -1e6 + torch.linspace(0, spread, 21, dtype=torch.float64).expand(2, -1)
    found = pareto_k(tail, 100, torch.full((2,), rounding))
    is_that = {"a number": found.isfinite(), "unknown": found.isnan(), "bounded": found == -math.inf}[expected]
    assert is_that.all()


def test_roundings_as_wide_as_allowed_leave_khat_as_it_is():
    """Of 1000 weights, a tail of 95: k-hat is known to (1 + k) / sqrt(95) = 0.15 or so; roundings move it by less."""
    clean = 0.7 * torch.distributions.Exponential(1.0).sample((50, 1000)).double()
    lost = clean + 0.025 * torch.randn(50, 1000)  # of which the largest of hundreds are about 0.1
    tails = [weights.topk(tail_length(1000) + 1, dim=1).values for weights in (clean, lost)]
    found = [pareto_k(tail, 1000, torch.full((50,), 0.099)) for tail in tails]
    assert (found[1] - found[0]).abs().max() < 0.15
    assert (found[1] - found[0]).mean().abs() < 0.02
