"""The sandwich around the closed evidence, what each side is in expectation, and how it is said."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation.annealing.bdmc import BDMC, bdmc
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood

QUICK = {"num_temperatures": 30, "num_chains": 16, "num_leapfrog": 5, "burn_in": 30, "seed": 0, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("count", [3, 10])
def test_both_weights_have_the_mean_that_makes_them_bounds(make_linear_gaussian, count, guided):
    """E[w] = p(x), E[1/w] = 1/p(x) over data, draws and chains: 1000 independent data, 4 standard errors."""
    case = make_linear_gaussian(x_dim=3, latent_dim=2, scale=2.0)
    guide = case.inexact_guide if guided else None
    quick = {**QUICK, "num_temperatures": count, "num_chains": 8, "burn_in": 10, "step_size_bounds": (1e-3, 1.5)}
    found = bdmc(case.model, torch.zeros(1000, 3).double(), guide=guide, **quick, compile="trace")
    evidence = case.evidence(found.data)
    for weight in ((found.log_weights - evidence).exp().mean(0), (evidence - found.reverse_log_weights).exp().mean(0)):
        assert abs(weight.mean() - 1) < 4 * weight.std() / 1000**0.5
        assert weight.std() > 0.02
    # The bounds hold on average; from the prior, at three temperatures, by far.
    for miss in (evidence - found.lower.per_datum, found.upper.per_datum - evidence):
        assert miss.mean() > (4 if count == 3 and not guided else -4) * miss.std() / 1000**0.5


@pytest.mark.slow
def test_the_sandwich_is_narrow_and_holds_in_ten_dims_at_a_thousand_temperatures(make_linear_gaussian):
    case = make_linear_gaussian(x_dim=12, latent_dim=10, orthogonal=True)
    x = torch.zeros(20, 12).double()
    quick = {"seed": 0, "progress": False, "compile": "trace"}
    found = bdmc(case.model, x, num_temperatures=1000, num_leapfrog=5, **quick)
    evidence = case.evidence(found.data)
    assert found.width.data_standard_error < 0.04
    assert found.width.mean + 2 * found.width.data_standard_error < 0.1
    margin = 4 * found.width.data_standard_error
    assert found.lower.mean - margin < evidence.mean() < found.upper.mean + margin
    assert ((found.lower.per_datum - evidence).abs() < 4 * found.lower.standard_errors + 0.05).all()
    assert not found.flagged.any()


@pytest.mark.slow
def test_twice_the_temperatures_halve_the_width(make_linear_gaussian):
    """To first order in 1/T; 300 data, the ratio within 4 standard errors of it and of the next order's tenth."""
    case = make_linear_gaussian(x_dim=3, latent_dim=2)
    quick = {**QUICK, "num_chains": 1, "step_size_bounds": (1e-3, 1.0), "compile": "trace"}
    x = torch.zeros(300, 3).double()
    coarse, fine = (bdmc(case.model, x, **{**quick, "num_temperatures": count}).width for count in (60, 120))
    error = (fine.data_standard_error**2 + (coarse.data_standard_error / 2) ** 2) ** 0.5
    assert abs(fine.mean - coarse.mean / 2) < 4 * error + 0.1 * coarse.mean
    assert coarse.mean > 4 * coarse.data_standard_error


def test_the_data_are_the_models_and_the_same_under_a_seed(linear_gaussian):
    x, quick = torch.zeros(9, 5).double(), {**QUICK, "num_temperatures": 3, "burn_in": 3}
    found, again = (bdmc(linear_gaussian.model, x, max_rows=32, **quick) for _ in range(2))
    assert found.data.shape == x.shape
    assert len(found.data.unique()) == x.numel()
    assert_close(found.data, again.data, rtol=0, atol=0)
    assert_close(found.reverse_log_weights, again.reverse_log_weights, rtol=0, atol=0)
    other = bdmc(linear_gaussian.model, x, **{**quick, "seed": 1})
    assert (other.data != found.data).all()
    assert (x == 0).all()


def test_a_vae_with_images_in_float32():
    found = bdmc(VAE((1, 3, 2), 2, (5,)), torch.zeros(6, 1, 3, 2), **QUICK)
    assert found.datum == "image"
    assert ((found.data == 0) | (found.data == 1)).all()
    assert found.width.per_datum.isfinite().all()
    assert found.width.mean < 1


def test_an_exact_guide_leaves_no_gap(linear_gaussian):
    found = bdmc(linear_gaussian.model, torch.zeros(4, 5).double(), guide=linear_gaussian.exact_guide, **QUICK)
    assert_close(found.lower.per_datum, linear_gaussian.evidence(found.data), rtol=1e-7, atol=1e-7)
    assert_close(found.upper.per_datum, found.lower.per_datum, rtol=1e-7, atol=1e-7)
    assert "from the guide" in str(found)


def make(**options):
    given = {
        "data": torch.zeros(3, 4),
        "log_weights": torch.tensor([[-87.0, -86.0, -80.0], [-86.8, -86.2, -81.0]], dtype=torch.float64),
        "reverse_log_weights": torch.tensor([[-86.0, -85.0, -79.0], [-86.2, -85.5, -79.0]], dtype=torch.float64),
        "acceptance": torch.full((3,), 0.7),
        "diverged": torch.tensor([0.0, 0.0, 0.06]),
    }
    return BDMC.of_weights(**given | options, num_temperatures=100, num_leapfrog=10, schedule="sigmoid", datum="image")


def test_bounds_by_hand_one_line_and_a_summary():
    found = make()
    lower, upper, width = (estimate.per_datum for estimate in (found.lower, found.upper, found.width))
    assert_close(lower[0], torch.tensor([-87.0, -86.8], dtype=torch.float64).exp().mean().log())
    assert_close(upper[0], -torch.tensor([86.0, 86.2], dtype=torch.float64).exp().mean().log())
    assert_close(width, upper - lower, equal_nan=True)
    assert_close(found.width.standard_errors, torch.hypot(found.lower.standard_errors, found.upper.standard_errors))
    assert found.flagged.tolist() == [False, False, True]
    assert found.width.mean == pytest.approx(width[:2].mean().item())
    assert str(found) == (
        "log p(x) between -86.50 and -85.69 nats/image (width 0.80, s.e. 0.012; BDMC from the prior: C = 2, T = 100; "
        "acceptance 0.70; 3 images, 1 flagged and left out of the model's own)"
    )
    summary = found.summary()
    assert summary["width"]["mean"] == pytest.approx(summary["upper"]["mean"] - summary["lower"]["mean"])
    for name in ("lower", "upper", "width"):
        assert (summary[name]["num_data"], summary[name]["num_left_out"]) == (3, 1)
    assert summary["num_chains"] == 2
    broken = make(reverse_log_weights=torch.full((2, 3), math.nan).double())
    assert broken.flagged.all()
    assert math.isnan(broken.width.mean)
    assert make(log_weights=found.log_weights[:1]).lower.standard_errors.isnan().all()


def test_what_cannot_be_simulated_is_refused():
    soft = VAE((6,), 2, likelihood=BernoulliLikelihood((6,), 2, (5,), soft_targets=True))
    with pytest.raises(ValueError, match=r"^bdmc: .*soft targets"):
        bdmc(soft, torch.zeros(3, 6), **QUICK)
    with pytest.raises(ValueError, match=r"^bdmc: num_chains must be at"):
        bdmc(VAE((6,), 2, (5,)), torch.zeros(3, 6), num_chains=0)
