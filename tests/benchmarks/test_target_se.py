import json
import math

import pytest
import torch
from torch.testing import assert_close

import pyro_vae
from benchmarks import target_se


def test_the_fixed_side_is_the_estimate_from_the_first_samples_of_a_stream(linear_gaussian):
    """An exact guide: every K gives the evidence. A wrong one: sizes share their first samples, also over calls."""
    case = linear_gaussian
    x = case.data(5)
    exact = target_se.fixed((case.model, case.exact_guide), x, [1, 7, 30], seed=0, rows=20)
    assert_close(exact, case.evidence(x).expand(3, 5), rtol=1e-8, atol=1e-8)
    short = target_se.fixed((case.model, case.inexact_guide), x, [8], seed=0, rows=20)
    long = target_se.fixed((case.model, case.inexact_guide), x, [8, 40], seed=0, rows=20)
    assert torch.equal(long[0], short[0])
    assert not torch.equal(long[1], short[0])


def test_the_side_that_is_told_takes_the_least_size_that_meets_the_target(linear_gaussian):
    """The variance is that of p(z | x) / q(z | x) under q, closed for two normals: the integral of p^2 / q, less 1."""
    case, num_samples = linear_gaussian, 100_000
    x = case.data(8)
    p, q = case.model.posterior(x), case.diagonal(x)
    off = q.mean - p.mean
    inverse = torch.diag_embed(1 / q.variance)
    left = 2 * p.precision_matrix - inverse
    pushed = off / q.variance
    exponent = 0.5 * (pushed * torch.linalg.solve(left, pushed)).sum(-1) + 0.5 * (off * pushed).sum(-1)
    volume = p.precision_matrix.logdet() + 0.5 * (q.variance.log().sum(-1) - left.logdet())
    exact = (volume + exponent).exp() - 1
    variances = target_se.variances_of(pyro_vae.log_likelihood(case.model, case.inexact_guide, x, num_samples, seed=1))
    weights = pyro_vae.log_weights(case.model, case.inexact_guide, x, num_samples).sub(case.evidence(x)).exp()
    errors = (weights - 1).square().std(0) / math.sqrt(num_samples)
    assert ((variances - exact).abs() < 4 * errors).all()
    assert (errors < 0.1 * exact).all()
    sizes = [2**power for power in range(4, 13)]
    samples, _ = target_se.told(torch.zeros(2, len(sizes), 8), sizes, variances, target=0.03)
    needed = variances / 0.03**2
    assert ((samples >= needed) | (samples == sizes[-1])).all()
    assert ((samples / 2 < needed) | (samples == sizes[0])).all()


def test_the_error_of_the_mean_counts_bias_and_variance():
    """Errors N(-0.3, 0.4^2) of 50 images: sqrt(0.3^2 + 0.4^2 / 50) = 0.3053, to within 4 x 0.4 / sqrt(50 x 2000)."""
    error = -0.3 + 0.4 * torch.randn(2000, 50, dtype=torch.float64)
    assert target_se.error_of_mean(error) == pytest.approx(math.sqrt(0.09 + 0.16 / 50), abs=0.005)
    without = target_se.error_of_mean(error - error.mean())
    assert without == pytest.approx(0.4 / math.sqrt(50), rel=0.02)


def test_the_error_of_the_worst_is_below_that_of_one_image_in_ten():
    error = torch.ones(6, 11) * torch.arange(11.0)
    assert target_se.error_of_worst(error) == 9


@pytest.mark.parametrize(
    ("target", "size"), [(0.1, 400), (0.2, 100), (0.05 * math.sqrt(2), 800), (0.3, 100), (0.01, 1600)]
)
def test_the_k_of_an_error_lies_on_the_power_between_two(target, size):
    assert target_se.equal_size([100, 400, 1600], [0.2, 0.1, 0.05], target) == pytest.approx(size)


def test_it_prints_what_was_drawn_and_what_a_fixed_k_needs(capsys, measure_once):
    measure_once(target_se)
    small = ["--epochs", "1", "--images", "6", "--budget", "300", "--repeats", "2", "--target", "0.5"]
    target_se.main(["--json", *small])
    found = json.loads(capsys.readouterr().out)
    assert 256 <= found["samples"] <= 300
    for name in ("mean", "worst", "told_mean", "told_worst"):
        samples = "told_samples" if name.startswith("told") else "samples"
        assert found[f"{name}_ratio"] == pytest.approx(found[samples] / found[f"{name}_k"], rel=1e-4)
        assert found[f"{name}_error"] > 0
        assert found[f"{name}_ratio_low"] <= found[f"{name}_ratio_high"]
    assert found["stated_bias"] < 0
    target_se.main(small)
    assert "samples an image, deciding ones included" in capsys.readouterr().out
