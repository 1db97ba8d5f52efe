"""Student's t by scipy and a product form, in float32 for any degrees of freedom, and its draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.distributions.heavy_tails import StudentT

DFS = [1e-2, 0.5, 1.0, 2.5, 5.0, 31.9, 32.0, 33.0, 1e3, 1e6, 1e8]
X = [0.0, 1e-4, 0.3, -2.0, 7.0, 1e3, 1e10]

every_df = pytest.mark.parametrize("df", DFS)


@every_df
def test_log_density_by_scipy(df):
    x = torch.tensor(X, dtype=torch.float64)
    # scipy's own normaliser is a difference of log-gamma functions.
    tolerance = 1e-11 if df < 1e5 else 1e-6
    expected = torch.from_numpy(stats.t.logpdf(x.numpy(), df, 0.3, 1.7))
    p = StudentT(*(torch.tensor(value, dtype=torch.float64) for value in (df, 0.3, 1.7)))
    assert_close(p.log_prob(x), expected, rtol=tolerance, atol=tolerance)


def test_a_cauchy_and_a_normal_law_at_the_ends():
    x, one, zero = torch.linspace(-5, 5, 11).double(), torch.ones(()).double(), torch.zeros(()).double()
    assert_close(StudentT(one, zero, one).log_prob(x), -(math.pi * (1 + x.square())).log(), rtol=1e-13, atol=1e-13)
    normal = -0.5 * x.square() - 0.5 * math.log(2 * math.pi)
    assert_close(StudentT(1e14 * one, zero, one).log_prob(x), normal, rtol=0, atol=1e-11)


@every_df
def test_single_precision_is_as_good_as_its_rounding(df):
    arguments = [torch.tensor(value) for value in (df, 0.3, 1.7)]
    found = StudentT(*arguments).log_prob(torch.tensor(X))
    exact = StudentT(*(value.double() for value in arguments)).log_prob(torch.tensor(X).double())
    assert ((found.double() - exact).abs() <= 1e-6 * (1 + exact.abs())).all()
    if df == 1e6:
        theirs = torch.distributions.StudentT(*arguments).log_prob(torch.tensor(0.0))
        assert (theirs.double() - exact[0]).abs() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_df
def test_gradients_are_finite(df, dtype):
    x = torch.tensor([*X, 1e30], dtype=dtype)
    arguments = [torch.full_like(x, value).requires_grad_() for value in (df, 0.3, 1.7)]
    value = StudentT(*arguments).log_prob(x)
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value.sum(), arguments))


@pytest.mark.parametrize("df", [0.7, 4.0, 40.0])
def test_the_gradient_is_that_of_finite_differences(df):
    x = torch.tensor([-3.0, 0.2, 50.0]).double()
    arguments = [torch.full_like(x, value).requires_grad_() for value in (df, 0.3, 1.7)]
    assert torch.autograd.gradcheck(lambda *a: StudentT(*a).log_prob(x), arguments)


def test_moments():
    df = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0, 10.0]).double()
    p = StudentT(df, torch.tensor(0.3).double(), torch.tensor(2.0).double())
    assert_close(p.mean[2:], torch.full((4,), 0.3).double(), rtol=1e-6, atol=0)
    assert p.mean[:2].isnan().all()
    assert p.variance[:2].isnan().all()
    assert p.variance[2:4].isinf().all()
    assert_close(p.variance[4:], torch.tensor([12.0, 5.0]).double())


@pytest.mark.parametrize("df", [0.8, 3.0, 1e4])
def test_draws_follow_the_distribution_function(df):
    """The share of draws below each of seven quantiles, within 4 standard errors."""
    n, levels = 100_000, np.linspace(0.1, 0.9, 7)
    points = torch.from_numpy(stats.t.ppf(levels, df, 0.3, 1.7))
    p = StudentT(*(torch.tensor(value).double() for value in (df, 0.3, 1.7)))
    share = (p.sample((n, 1)) <= points).double().mean(0).numpy()
    assert (np.abs(share - levels) < 4 * np.sqrt(levels * (1 - levels) / n)).all()


def test_expand_and_broadcast():
    p = StudentT(torch.tensor(3.0), torch.zeros(2), torch.ones(4, 1))
    assert p.batch_shape == (4, 2)
    assert p.expand((5, 4, 2)).log_prob(torch.zeros(2)).shape == (5, 4, 2)
