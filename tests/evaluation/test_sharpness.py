"""Laplacians by hand, blur, and the error of a ratio."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from pyro_vae.evaluation import reconstruction_sharpness, sharpness, sharpness_ratio


def test_laplacians_worked_out_by_hand():
    """A dot of 5 x 5: -4, four 1s, four 0s. A ramp: 0. A parabola i^2: 2 everywhere, of variance 0. A checkerboard
    of 4 x 4: 4 and -4, two each.
    """
    dot = torch.zeros(5, 5)
    dot[2, 2] = 1
    row = torch.arange(5.0).expand(5, 5)
    found = sharpness(torch.stack([dot, row + 3 * row.T, row.square()]).unsqueeze(1))
    assert_close(found, torch.tensor([20 / 9, 0.0, 0.0]).double())
    board = ((torch.arange(4).unsqueeze(0) + torch.arange(4).unsqueeze(1)) % 2).float()
    assert_close(sharpness(board.expand(1, 1, 4, 4)), torch.tensor([16.0]).double())


def test_channels_are_averaged_and_contrast_counts_squared():
    x = torch.rand(6, 3, 9, 7, dtype=torch.float64)
    each = torch.stack([sharpness(x[:, channel : channel + 1]) for channel in range(3)])
    assert_close(sharpness(x), each.mean(0))
    assert_close(sharpness(0.5 * x + 0.2), 0.25 * sharpness(x))


def test_blur_lowers_it():
    x = torch.rand(20, 1, 28, 28)
    blurred = avg_pool2d(x, 3, 1, 1)
    assert (sharpness(blurred) < 0.2 * sharpness(x)).all()
    found = sharpness_ratio(blurred, x)
    assert found.ratio == pytest.approx((sharpness(blurred).mean() / sharpness(x).mean()).item())
    assert str(found).startswith(f"sharpness {found.ratio:.3f} of the data's (s.e. ")


def images_of(contrast):
    """Images whose sharpness is the square of the contrast times 20 / 9."""
    dot = torch.zeros(len(contrast), 1, 5, 5, dtype=torch.float64)
    dot[:, 0, 2, 2] = contrast
    return dot


def test_an_image_is_as_sharp_as_itself_without_error():
    x = torch.rand(5, 1, 8, 8)
    found = sharpness_ratio(x, x)
    assert found.ratio == 1
    assert found.standard_error == 0
    assert sharpness_ratio(x, x, paired=False).standard_error > 0


@pytest.mark.parametrize("paired", [True, False])
def test_standard_errors_cover_the_ratio_in_90_to_99_percent_of_200_repetitions(paired):
    """Sharpness b ~ exp(N(0, 0.3^2)), a = 0.5 b u with u uniform in (0, 2) or, unpaired, of another b: ratio 0.5."""
    covered = 0
    for _ in range(200):
        b, other = (0.3 * torch.randn(2, 80, dtype=torch.float64)).exp()
        a = 0.5 * (b if paired else other) * 2 * torch.rand(80, dtype=torch.float64)
        images, data = images_of(a.sqrt()), images_of(b.sqrt())
        found = sharpness_ratio(images, data if paired else data[:60], paired=paired)
        covered += abs(found.ratio - 0.5) < 2 * found.standard_error
    assert 0.90 <= covered / 200 <= 0.99


def test_the_paired_error_by_its_formula():
    a, b = torch.rand(2, 9, dtype=torch.float64) + 0.1
    found = sharpness_ratio(images_of(a.sqrt()), images_of(b.sqrt()))
    covariance = torch.cov(torch.stack([a, b])) / 9
    gradient = torch.stack([1 / b.mean(), -a.mean() / b.mean().square()])
    assert found.standard_error == pytest.approx(math.sqrt((gradient @ covariance @ gradient).item()))
    assert found.summary()["data_sharpness"] == pytest.approx(20 / 9 * b.mean().item())


def test_bad_input():
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"images must have .*\(4, 64\)"):
        sharpness(x.flatten(1))
    with pytest.raises(ValueError, match=r"3 pixels .*\(4, 1, 8, 2\)"):
        sharpness(x[..., :2])
    with pytest.raises(ValueError, match="images: there are none"):
        sharpness(x[:0])
    with pytest.raises(ValueError, match="images must be at least 2"):
        sharpness_ratio(x[:1], x[:1])
    with pytest.raises(ValueError, match=r"one shape; .*\(4, 1, 8, 8\)"):
        sharpness_ratio(x[:3], x)
    with pytest.raises(ValueError, match=r"Laplacian .* is constant"):
        sharpness_ratio(x, torch.ones_like(x))
    spoiled = x.clone()
    spoiled[2, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"data: 1 of 4 .*first: 2"):
        sharpness_ratio(x, spoiled)


def test_the_estimate_of_a_ratio_has_its_mean_and_error():
    x = torch.rand(30, 1, 6, 6)
    found = sharpness_ratio(0.7 * x + 0.1 * torch.rand_like(x), x)
    estimate = found.estimates["sharpness_ratio"]
    assert "paired, Monte Carlo s.e. unknown" in str(found)
    assert estimate.mean == pytest.approx(found.ratio)
    assert estimate.data_standard_error == pytest.approx(found.standard_error)
    unpaired = sharpness_ratio(x, x[:20], paired=False)
    assert unpaired.estimates == {}
    assert unpaired.summary()["sharpness_ratio_standard_error"] == unpaired.standard_error


def model_of_halves(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.5 * x, 1.0).to_event(3), obs=x)


def guide_of_halves(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def test_reconstructions_of_half_the_contrast_are_a_quarter_as_sharp():
    """The Laplacian halves with the image, and its variance is a quarter."""
    found = reconstruction_sharpness(model_of_halves, guide_of_halves, torch.rand(9, 1, 5, 5), seed=0)
    assert found.ratio == pytest.approx(0.25)
    assert found.estimates["sharpness_ratio"].data_standard_error == pytest.approx(0.0, abs=1e-6)
