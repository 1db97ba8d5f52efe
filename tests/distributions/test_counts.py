"""Laws of counts against a product in long doubles, scipy, their sums over all counts, and their draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.distributions.counts import (
    Counts,
    NegativeBinomialCounts,
    PoissonCounts,
    ZeroInflatedNegativeBinomialCounts,
    stirling_error,
)

MEANS = [1e-8, 1e-3, 0.5, 3.0, 40.0, 1e3, 1e6, 1e8]
COUNTS = [0.0, 1.0, 2.0, 7.0, 15.0, 16.0, 17.0, 100.0, 1e3, 999_983.0, 1e6]
THETAS = [1e-8, 1e-3, 0.3, 1.0, 5.0, 15.9, 16.0, 1e3, 1e6, 1e9]
MEAN, COUNT = torch.cartesian_prod(*(torch.tensor(values, dtype=torch.float64) for values in (MEANS, COUNTS))).T

every_theta = pytest.mark.parametrize("theta", THETAS)


def laws(log_mean, theta):
    """Each law at a mean, an inverse dispersion and a gate."""
    log_theta = torch.as_tensor(theta, dtype=log_mean.dtype).log().expand_as(log_mean)
    return (
        PoissonCounts(log_mean),
        NegativeBinomialCounts(log_mean, log_theta),
        ZeroInflatedNegativeBinomialCounts(log_mean, log_theta, torch.full_like(log_mean, -0.7)),
    )


def negative_binomial(theta):
    """log P, with the sum of log((theta + j) / (1 + j)) over j < x in the place of log-gamma functions."""
    theta, mean, count = np.longdouble(theta), MEAN.numpy().astype(np.longdouble), COUNT.numpy().astype(np.longdouble)
    j = np.arange(int(max(COUNTS)), dtype=np.longdouble)
    rising = np.concatenate([[0], np.cumsum(np.log((theta + j) / (1 + j)))])[count.astype(int)]
    return torch.from_numpy((rising - theta * np.log1p(mean / theta) - count * np.log1p(theta / mean)).astype(float))


def test_poisson_by_scipy():
    expected = torch.from_numpy(stats.poisson.logpmf(COUNT.numpy(), MEAN.numpy()))
    # scipy itself subtracts terms of 1e7.
    assert_close(PoissonCounts(MEAN.log()).log_prob(COUNT), expected, rtol=1e-9, atol=1e-8)


@every_theta
def test_negative_binomial_by_its_product_in_long_doubles(theta):
    found = NegativeBinomialCounts(MEAN.log(), torch.tensor(theta, dtype=torch.float64).log()).log_prob(COUNT)
    assert_close(found, negative_binomial(theta), rtol=1e-11, atol=1e-8)


@pytest.mark.parametrize("theta", [0.3, 1.0, 5.0, 16.0])
def test_negative_binomial_by_scipy(theta):
    few = COUNT < 1e4
    expected = stats.nbinom.logpmf(COUNT[few].numpy(), theta, theta / (theta + MEAN[few].numpy()))
    found = NegativeBinomialCounts(MEAN.log(), torch.tensor(theta, dtype=torch.float64).log()).log_prob(COUNT)[few]
    sensible = np.isfinite(expected)
    assert sensible.mean() > 0.7
    assert_close(found[sensible], torch.from_numpy(expected[sensible]), rtol=1e-6, atol=1e-8)


def test_a_large_inverse_dispersion_is_poisson():
    found = NegativeBinomialCounts(MEAN.log(), torch.tensor(30.0).double()).log_prob(COUNT)
    usual = (COUNT - MEAN).abs() < 100 * (1 + MEAN).sqrt()
    expected = PoissonCounts(MEAN.log()).log_prob(COUNT)
    # They differ by about ((x - mean)^2 - x) / (2 theta), here less than 1e12 / 2e13.
    assert_close(found[usual], expected[usual], rtol=0, atol=0.06)


@every_theta
@pytest.mark.parametrize("law", [0, 1, 2])
def test_single_precision_is_as_good_as_its_rounding(theta, law):
    """From the same float32 parameters: 2e-6 of the value, 16 roundings; torch's own are off by whole nats."""
    exact, found = (laws(MEAN.log().float().to(dtype), theta)[law] for dtype in (torch.float64, torch.float32))
    vars(exact).pop("log_inverse_dispersion", None)
    if law:
        exact.log_inverse_dispersion = found.log_inverse_dispersion.double()
        exact.gate_logits = torch.full_like(MEAN, float(torch.tensor(-0.7)))
    expected = exact.log_prob(COUNT)
    assert ((found.log_prob(COUNT.float()).double() - expected).abs() <= 2e-6 * (1 + expected.abs()) + 3e-5).all()


@every_theta
def test_negative_binomials_of_torch_lose_what_ours_keep(theta):
    log_mean, log_theta = MEAN.log().float(), torch.tensor(theta).log()
    expected = NegativeBinomialCounts(log_mean.double(), log_theta.double()).log_prob(COUNT)
    likely = expected > -50
    ours = NegativeBinomialCounts(log_mean, log_theta).log_prob(COUNT.float())
    theirs = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta).log_prob(COUNT.float())
    assert (ours.double() - expected).abs()[likely].max() < 1e-4
    if theta >= 1e6:
        assert (theirs.double() - expected).abs()[likely].max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_mean", [-1e4, -200.0, -80.0, 0.0, 18.4, 30.0])
@pytest.mark.parametrize("log_theta", [-30.0, -5.0, 0.0, 15.0, 30.0])
def test_values_and_gradients_are_finite_at_extremes(log_mean, log_theta, dtype):
    count = torch.tensor([*COUNTS, 1e8], dtype=dtype)
    parameters = [torch.full_like(count, value).requires_grad_() for value in (log_mean, log_theta, 3.0)]
    for p in (
        PoissonCounts(parameters[0]),
        NegativeBinomialCounts(*parameters[:2]),
        ZeroInflatedNegativeBinomialCounts(*parameters),
    ):
        value = p.log_prob(count)
        assert value.isfinite().all()
        gradients = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("mean", [1e-3, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("theta", [0.3, 5.0, 16.0, 1e6])
def test_the_probabilities_of_all_counts_sum_to_one_and_make_mean_and_variance(mean, theta):
    counts = torch.arange(60_000, dtype=torch.float64)
    for p in laws(torch.tensor(mean).double().log(), theta):
        probability = p.log_prob(counts).exp()
        assert_close(probability.sum().item(), 1.0, rtol=1e-10, atol=0)
        assert_close((probability * counts).sum(), p.mean, rtol=1e-9, atol=0)
        assert_close((probability * (counts - p.mean).square()).sum(), p.variance, rtol=1e-8, atol=0)


@pytest.mark.parametrize("theta", [0.02, 3.0, 40.0, 1e5])
def test_gradients_are_those_of_finite_differences(theta):
    count = torch.tensor([0.0, 1.0, 5.0, 15.0, 16.0, 90.0]).double()
    arguments = [torch.full_like(count, value).requires_grad_() for value in (np.log(20.0), np.log(theta), 0.4)]
    assert torch.autograd.gradcheck(
        lambda *a: ZeroInflatedNegativeBinomialCounts(*a).log_prob(count), arguments, eps=1e-6, rtol=1e-4, atol=1e-5
    )
    assert torch.autograd.gradcheck(lambda a: PoissonCounts(a).log_prob(count), arguments[:1], eps=1e-6, rtol=1e-4)


def test_the_zero_inflated_law_by_hand():
    mean, theta, gate = 2.0, 0.7, 0.3
    counts = np.arange(50)
    plain = stats.nbinom.pmf(counts, theta, theta / (theta + mean))
    expected = np.log((1 - gate) * plain + gate * (counts == 0))
    parameters = torch.from_numpy(np.log([mean, theta, gate / (1 - gate)]))
    p = ZeroInflatedNegativeBinomialCounts(*parameters)
    assert_close(p.log_prob(torch.from_numpy(counts).double()), torch.from_numpy(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("law", [0, 1, 2])
def test_draws_have_the_probabilities(law):
    """The share of each count expected 50 times or more, within 4.5 standard errors (some 40 counts are looked at)."""
    n, p = 100_000, laws(torch.tensor(6.0).double().log(), 2.5)[law]
    draws = p.sample((n,))
    assert p.support.check(draws).all()
    share = draws.long().bincount(minlength=200) / n
    exact = p.log_prob(torch.arange(len(share)).double()).exp()
    usual = exact * n >= 50
    error = (exact * (1 - exact) / n).sqrt()
    assert ((share - exact).abs() < 4.5 * error)[usual].all()


def test_stirlings_error_joins_at_sixteen():
    below, above = (stirling_error(torch.tensor(16.0 + step).double()) for step in (-1e-12, 0.0))
    assert_close(below, above, rtol=0, atol=1e-13)


@pytest.mark.parametrize("law", [0, 1, 2])
def test_what_is_no_count_is_refused_also_when_expanded(law):
    p = laws(torch.zeros(2), 1.0)[law]
    for q in (p, p.expand((3, 2))):
        assert isinstance(q.support, Counts)
        with pytest.raises(ValueError, match="support"):
            q.log_prob(torch.tensor([1.0, 0.5]))
