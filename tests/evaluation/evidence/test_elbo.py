"""The ELBO's terms against their closed forms on the linear-Gaussian model."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import elbo_terms, log_weights
from pyro_vae.errors import PairError
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.programs.pair import Pair


def closed_forms(case, x):
    """E_q[log p(x | z)] and KL(q || p(z)) of the diagonal guide, each ``(N,)``."""
    q, model = case.diagonal(x), case.model
    variance = (2 * model.log_scale).exp()
    residual = x - q.mean @ model.loadings.T - model.bias
    square = residual.square().sum(-1) + q.variance @ model.loadings.square().sum(0)
    reconstruction = -0.5 * square / variance - 0.5 * x.shape[1] * (2 * math.pi * variance).log()
    rate = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1)
    return reconstruction, rate


def test_reconstruction_and_rate_within_four_standard_errors(linear_gaussian):
    """Each term of each of 30 data: 60 comparisons; the errors are those of the same terms' spread."""
    case, num_samples = linear_gaussian, 2000
    x = case.data(30)
    found = elbo_terms(case.model, case.inexact_guide, x, num_samples, seed=0)
    terms = Pair(case.model, case.inexact_guide, x).terms(x, num_samples)
    reconstruction, rate = closed_forms(case, x)
    for estimate, exact, draws in (
        (found.reconstruction, reconstruction, terms.reconstruction),
        (found.rate, rate, terms.log_guide - terms.log_prior),
    ):
        assert ((estimate.per_datum - exact).abs() < 4 * draws.std(0) / math.sqrt(num_samples)).all()
    assert abs(found.elbo.mean - (reconstruction - rate).mean().item()) < 4 * found.elbo.standard_error
    assert (found.elbo.per_datum < case.evidence(x) + 4 * found.elbo.standard_errors).all()


def test_the_spread_of_each_term_is_its_closed_form(linear_gaussian):
    """Both are quadratic in z = m + S^(1/2) e: with Hessian H and gradient g, g^T S g + tr((H S)^2) / 2."""
    case, num_samples = linear_gaussian, 200_000
    x, model = case.data(10), case.model
    q = case.diagonal(x)
    variance = (2 * model.log_scale).exp()
    hessian = -model.loadings.T @ model.loadings / variance
    gradient = (x - q.mean @ model.loadings.T - model.bias) @ model.loadings / variance
    spread = hessian @ (q.variance.unsqueeze(-1) * hessian)
    of_reconstruction = (gradient.square() * q.variance).sum(-1) + 0.5 * (
        spread.diagonal(dim1=-2, dim2=-1) * q.variance
    ).sum(-1)
    of_rate = (q.mean.square() * q.variance + 0.5 * (q.variance - 1).square()).sum(-1)
    found = elbo_terms(model, case.inexact_guide, x, num_samples, seed=0)
    # A variance from S samples is known to sqrt((kurtosis - 1) / S), the kurtosis of a square of a normal being 15.
    for estimate, exact in ((found.reconstruction, of_reconstruction), (found.rate, of_rate)):
        variances = estimate.standard_errors.square() * num_samples
        assert_close(variances, exact, rtol=4 * math.sqrt(14 / num_samples), atol=0)
    exact = (of_reconstruction.sum() / num_samples).sqrt().item() / len(x)
    assert found.reconstruction.standard_error == pytest.approx(exact, rel=0.01)
    assert found.summary()["rate"]["standard_error"] == pytest.approx(
        (of_rate.sum() / num_samples).sqrt().item() / len(x), rel=0.01
    )


def test_one_datum_has_no_error_over_data(linear_gaussian):
    case = linear_gaussian
    found = elbo_terms(case.model, case.inexact_guide, case.data(1), 5)
    assert math.isnan(found.elbo.data_standard_error)
    assert "data s.e. unknown" in str(found)


def test_an_exact_guide_has_no_gap_and_no_variance(linear_gaussian):
    case = linear_gaussian
    x = case.data(5)
    found = elbo_terms(case.model, case.exact_guide, x, 7)
    assert_close(found.elbo.per_datum, case.evidence(x), rtol=1e-8, atol=1e-8)
    assert found.elbo.standard_errors.square().max() < 1e-10 / 7


def test_numbers_equal_a_direct_computation(linear_gaussian):
    """Two data a call, 30 samples; a ragged last block is filled up with the datum before it."""
    case = linear_gaussian
    x = case.data(5)
    with run_sizes(rows=60, head=60, calls=1):
        found = elbo_terms(case.model, case.inexact_guide, x, 30, seed=3).elbo
    torch.manual_seed(3)
    blocks = [x[0:2], x[2:4], x[3:5]]
    first, second, third = (log_weights(case.model, case.inexact_guide, block, 30) for block in blocks)
    weights = torch.cat([first, second, third[:, 1:]], dim=1)
    assert_close(found.per_datum, weights.mean(0), rtol=1e-10, atol=1e-10)
    assert_close(found.standard_errors.square() * 30, weights.var(0), rtol=1e-8, atol=1e-8)
    expected = (weights.var(0).sum() / 30).sqrt() / 5
    assert found.standard_error == pytest.approx(expected.item())
    assert found.data_standard_error == pytest.approx((weights.mean(0).std() / math.sqrt(5)).item())


def test_one_sample_has_no_error(linear_gaussian):
    found = elbo_terms(linear_gaussian.model, linear_gaussian.inexact_guide, linear_gaussian.data(3), 1)
    assert found.elbo.standard_errors.isnan().all()
    assert math.isnan(found.elbo.standard_error)


def test_a_seed_repeats_and_leaves_the_global_generator_alone(linear_gaussian):
    x = linear_gaussian.data(3)
    before = torch.get_rng_state()
    first, second = (elbo_terms(linear_gaussian.model, linear_gaussian.inexact_guide, x, 5, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.elbo.per_datum, second.elbo.per_datum)


def test_what_it_prints_adds_up(linear_gaussian):
    found = elbo_terms(linear_gaussian.model, linear_gaussian.inexact_guide, linear_gaussian.data(3), 9, seed=0)
    means = {name: found.summary()[name]["mean"] for name in ("elbo", "reconstruction", "rate")}
    assert means["elbo"] == pytest.approx(means["reconstruction"] - means["rate"])
    assert str(found).startswith(f"ELBO {means['elbo']:.2f} = reconstruction ")
    assert "nats/datum" in str(found)


def test_bad_input(linear_gaussian):
    model, guide, x = linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3)
    with pytest.raises(ValueError, match="num_samples must be at least"):
        elbo_terms(model, guide, x, -1)
    with pytest.raises(ValueError, match="elbo_terms: x: there are none"):
        elbo_terms(model, guide, x[:0])
    with pytest.raises(PairError, match="only in the model: z"):
        elbo_terms(model, lambda *_: None, x)


@pytest.mark.parametrize("magnitude", [1.0, 1e9])
def test_a_variance_far_below_the_square_of_the_terms(magnitude):
    """log p(x | z) = -m - z^2 / 2 - log(2 pi) / 2 with z ~ N(0, 1) from prior and guide: its variance is 1 / 2.

    Of 20 000 samples the estimate has a standard error of sqrt((E[(z^2 / 2 - 1 / 2)^4] - 1 / 4) / 20 000) = 0.013.
    """

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.factor("far", -magnitude * torch.ones_like(z))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))

    found = elbo_terms(model, guide, torch.zeros(2, dtype=torch.float64), 20_000, seed=0)
    for estimate in (found.reconstruction, found.elbo):
        assert estimate.standard_errors.square() * 20_000 == pytest.approx(0.5, abs=5 * 0.013)
    assert found.rate.standard_errors.square() * 20_000 == pytest.approx(0.0, abs=1e-9)
    assert found.elbo.standard_error == pytest.approx(math.sqrt(0.5 / 20_000 / 2), rel=0.1)
