"""The monotonic spline: slopes by autograd, knots where they were asked for, the identity, inverses, far away."""

import pytest
import torch
from torch.nn.functional import softmax, softplus
from torch.testing import assert_close

from pyro_vae.distributions.rational_quadratic import BOUND, LEAST, SLOPE_ONE, RationalQuadraticSpline


def found(num_bins=5, size=1.0):
    """What a network might say of 7 x 3 splines."""
    return size * torch.randn(7, 3 * num_bins - 1, 3).double()


def values(num=200, reach=6.0):
    return (2 * reach * torch.rand(num, 7, 3) - reach).double()


def test_slopes_are_those_of_autograd():
    spline, x = RationalQuadraticSpline(found()), values().requires_grad_()
    y, log_slope = spline(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert_close(log_slope.exp(), slope, rtol=1e-9, atol=1e-9)


def test_knots_and_their_slopes_are_those_asked_for():
    numbers = found(num_bins=5)
    spline = RationalQuadraticSpline(numbers)
    widths, heights, slopes = numbers.split([5, 5, 4], 1)
    for knot in range(1, 5):
        x, y = (
            -BOUND + 2 * BOUND * (LEAST + (1 - 5 * LEAST) * softmax(logits, 1))[:, :knot].sum(1)
            for logits in (widths, heights)
        )
        slope = softplus(slopes[:, knot - 1] + SLOPE_ONE) + LEAST
        # From both sides of the knot.
        for aside in (-1e-11, 1e-11):
            at, log_slope = spline(x + aside)
            assert_close(at, y, rtol=1e-9, atol=1e-9)
            assert_close(log_slope.exp(), slope, rtol=1e-6, atol=0)


def test_slopes_are_one_at_both_ends():
    for end in (-BOUND, BOUND):
        y, log_slope = RationalQuadraticSpline(found())(torch.full((7, 3), end).double())
        assert_close(y, torch.full((7, 3), end).double(), rtol=1e-12, atol=1e-12)
        assert_close(log_slope, torch.zeros(7, 3).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_bins", [2, 8])
def test_zeros_make_the_identity(num_bins):
    x = values()
    y, log_slope = RationalQuadraticSpline(torch.zeros(7, 3 * num_bins - 1, 3).double())(x)
    assert_close(y, x, rtol=1e-12, atol=1e-12)
    assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_inverses_undo_even_steep_splines(size):
    spline, x = RationalQuadraticSpline(found(size=size)), values()
    y, log_slope = spline(x)
    # What rounding of y does to x is as large as the spline is flat.
    found_x, found_slope = spline.inverse(y)
    error = (found_x - x).abs() * log_slope.exp().clamp(max=1)
    assert error.max() < 1e-8
    assert torch.equal(found_slope, spline(found_x)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_for_any_numbers(dtype):
    for size in (0.0, 1e3, 1e6):
        numbers = (size * torch.randn(7, 14, 3)).to(dtype).requires_grad_()
        x = torch.cat(
            [
                values().to(dtype),
                torch.tensor([-1e30, -BOUND, BOUND, 1e30], dtype=dtype).repeat(7, 3, 1).mT.movedim(1, 0),
            ]
        )
        x.requires_grad_()
        y, log_slope = RationalQuadraticSpline(numbers)(x)
        gradients = torch.autograd.grad(y.where(y.abs() < 10, 0).sum() + log_slope.sum(), [numbers, x])
        assert y.isfinite().all()
        assert log_slope.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert torch.equal(y[-1], x[-1])
