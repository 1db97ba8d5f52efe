import math

import pytest
import torch

from pyro_vae import plots
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StandardNormalPrior


def drawn_image(figure):
    (axes,) = figure.axes
    (picture,) = axes.images
    return torch.as_tensor(picture.get_array())


def test_a_grid_shows_every_image_in_reading_order():
    levels = torch.linspace(0, 1, 6)
    images = levels.reshape(6, 1, 1, 1).expand(6, 1, 4, 3)
    grid = drawn_image(plots.image_grid(images, 3, "title"))
    # One pixel of padding before each image: centres of 4 x 3 images.
    shown = [grid[1 + 2 + 5 * row, 1 + 1 + 4 * column, 0].item() for row in range(2) for column in range(3)]
    assert shown == pytest.approx(levels.tolist())


def test_reconstructions_alternate_data_and_means():
    x, means = torch.zeros(4, 1, 3, 3), torch.ones(4, 1, 3, 3)
    grid = drawn_image(plots.reconstructions(x, means, columns=2))
    assert [grid[2 + 4 * row, 2, 0].item() for row in range(4)] == [0, 1, 0, 1]


def test_a_traversal_sweeps_one_unit_through_the_priors_quantiles():
    seen = []

    def likelihood(z):
        seen.append(z)
        return BernoulliLikelihood((1, 2, 2), 3, ())(z)

    quantiles = torch.tensor([0.1, 0.5, 0.9])
    center = torch.tensor([1.0, 2.0, 3.0])
    plots.latent_traversal(StandardNormalPrior(3), likelihood, center, [1], quantiles)
    (z,) = seen
    assert torch.equal(z[:, [0, 2]], center[[0, 2]].expand(3, 2))
    # The quantiles of 10 000 draws: standard error sqrt(p (1 - p) / n) / density, at most 0.018 here; 4 of them.
    torch.testing.assert_close(z[:, 1], torch.special.ndtri(quantiles), rtol=0, atol=0.072)


def test_the_manifold_is_even_in_prior_probability():
    seen = []

    def likelihood(z):
        seen.append(z)
        return BernoulliLikelihood((1, 2, 2), 2, ())(z)

    plots.manifold(likelihood, like=torch.zeros(()), columns=4)
    levels = torch.special.ndtr(seen[0]).reshape(4, 4, 2)
    expected = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(levels[0, :, 0], expected)  # left to right
    torch.testing.assert_close(levels[:, 0, 1], expected.flip(0))  # bottom to top


def test_learning_curves_leave_out_a_curve_without_values():
    history = [{"epoch": e, "train_bound_nats": -100.0 / e, "valid_bound_nats": math.nan} for e in (1, 2, 3)]
    (axes,) = plots.learning_curves(history).axes
    (line,) = axes.lines
    assert line.get_label() == "train"
    assert list(line.get_ydata()) == [-100.0, -50.0, -100.0 / 3]


def test_prior_samples_have_as_many_images_as_asked_for():
    grid = drawn_image(plots.prior_samples(StandardNormalPrior(2), BernoulliLikelihood((1, 5, 5), 2), count=9))
    assert grid.shape[:2] == (3 * 6 + 1, 3 * 6 + 1)


def test_data_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"1 or 3, .*; got \(4, 784\)"):
        plots.image_grid(torch.zeros(4, 784), 2, "title")
