"""Figures of a conditional model: a row for each class, and completed quadrants."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyro_vae import plots
from pyro_vae.data.quadrants import Quadrants


class Shade(nn.Module):
    """x has the grey value that y says, whatever z is."""

    def __init__(self, grey, x_shape):
        super().__init__()
        self.grey, self.x_shape = grey, x_shape

    def forward(self, x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = self.grey(y).reshape(-1, *[1] * len(self.x_shape))
            law = dist.Bernoulli(mean.expand(len(x), *self.x_shape)).to_event(len(self.x_shape))
            pyro.sample("x", law, obs=x)


def grid_of(figure):
    """The grey values of a figure's images, (height, width)."""
    (axes,) = figure.axes
    return torch.as_tensor(axes.images[0].get_array())[..., 0]


def test_each_class_has_a_row_of_its_own_in_the_order_of_the_labels():
    y = torch.tensor([2, 0, 2, 0, 1])
    model = Shade(lambda y: y / 4 + 0.125, (1, 3, 3))
    figure = plots.class_samples(model, (torch.zeros(5, 1, 3, 3), y), columns=4)
    pixels = grid_of(figure)
    assert pixels.shape == (3 * 4 + 1, 4 * 4 + 1)
    for row, grey in enumerate((0.125, 0.375, 0.625)):
        for column in range(4):
            assert (pixels[4 * row + 1 : 4 * row + 4, 4 * column + 1 : 4 * column + 4] - grey).abs().max() < 1e-6
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["y = 0", "y = 1", "y = 2"]


@pytest.mark.parametrize("y", [torch.zeros(30), torch.arange(30), torch.zeros(30, 2).long(), torch.zeros(30) == 0])
def test_what_are_no_few_labels_have_no_rows(y):
    assert plots.rows_of_classes((torch.zeros(30, 1, 3, 3), y)) == {}
    with pytest.raises(ValueError, match="must be labels"):
        plots.class_samples(Shade(None, (1, 3, 3)), (torch.zeros(30, 1, 3, 3), y))


def test_completions_keep_what_is_given():
    images = torch.rand(5, 1, 4, 4).round()
    x, y = Quadrants((1, 4, 4), 2).split(images)
    model = Shade(lambda y: y[:, 0, 0, 0], (8,))
    pixels = grid_of(plots.completions(model, (x, y), 2, count=3))
    assert pixels.shape == (5 * 5 + 1, 5 * 5 + 1)
    cells = pixels[1:, 1:].unfold(0, 4, 5).unfold(1, 4, 5)
    assert torch.allclose(cells[..., :2], images[:, 0, :, :2].expand(5, 5, 4, 2))
    assert (cells[0, ..., 2:] == 0.5).all()
    assert torch.allclose(cells[1:4, ..., 2:], images[:, 0, 0, 0].reshape(5, 1, 1).expand(3, 5, 4, 2))
    assert torch.allclose(cells[4], images[:, 0])
