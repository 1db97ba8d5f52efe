"""What the figures show, read back from their artists."""

import numpy as np
import pytest
import torch
from matplotlib.path import Path

from pyro_vae.evaluation import SBC
from pyro_vae.plots.posterior import pairwise_marginals, rank_ecdfs


def correlated(n, correlation=0.8):
    mix = torch.tensor([[1.0, 0.0, 0.0], [correlation, (1 - correlation**2) ** 0.5, 0.0], [0.0, 0.0, 2.0]])
    return torch.randn(n, 3) @ mix.T


def contour_lines(axes):
    """The contours' polygons, outer level first."""
    (contours,) = [part for part in axes.collections if hasattr(part, "levels")]
    return [np.concatenate([line for line in level if len(line)]) for level in contours.allsegs]


def test_contours_hold_the_mass_that_they_say():
    guide = correlated(4000)
    figure = pairwise_marginals(correlated(2000), guide, dims=[0, 1])
    axes = figure.axes[2]
    for outline, mass in zip(contour_lines(axes), (0.9, 0.5), strict=True):
        share = Path(outline).contains_points(guide[:, :2].numpy()).mean()
        # The kernel widens the density; its levels are quantiles of the draws, on a grid of 60 points.
        assert share == pytest.approx(mass, abs=0.03)


def test_dots_are_the_reference_and_each_pair_is_below_the_diagonal():
    reference = correlated(500)
    figure = pairwise_marginals(reference, correlated(400), dims=[2, 0, 1], labels=["a", "b", "c"])
    axes = np.array(figure.axes).reshape(3, 3)
    (dots,) = axes[2, 0].lines
    assert np.allclose(dots.get_xdata(), reference[:, 2])
    assert np.allclose(dots.get_ydata(), reference[:, 1])
    assert [axes[2, k].get_xlabel() for k in range(3)] == ["a", "b", "c"]
    assert [axes[k, 0].get_ylabel() for k in range(3)] == ["", "b", "c"]
    assert not axes[0, 2].axison


def test_dots_are_few_enough_to_be_seen():
    figure = pairwise_marginals(correlated(5000), correlated(400))
    (dots,) = figure.axes[3].lines
    assert len(dots.get_xdata()) == 1000


def test_a_guide_on_a_line_is_drawn():
    guide = correlated(300)
    guide[:, 1] = guide[:, 0]
    guide[:, 2] = 3.0
    pairwise_marginals(correlated(300), guide).canvas.draw()


def test_draws_that_cannot_be_shown_are_refused():
    for reference, guide in [
        (correlated(300), correlated(300)[:, :2]),
        (correlated(5), correlated(300)),
        (correlated(300), correlated(300) * torch.nan),
        (correlated(300)[None], correlated(300)[None]),
    ]:
        with pytest.raises(ValueError, match="expected finite draws"):
            pairwise_marginals(reference, guide)


def test_the_rank_curves_are_the_differences_and_lie_in_the_band():
    ranks = torch.stack([torch.randperm(500) % 20 for _ in range(15)], dim=1)
    ranks[:, 3] //= 2
    p_values = torch.linspace(0.2, 1, 15).double()
    p_values[3] = 0.0
    calibration = SBC(ranks, p_values, 19)
    figure = rank_ecdfs(calibration)
    titles = [axes.get_title() for axes in figure.axes]
    # The twelve smallest p-values, in the dims' order.
    assert [title.split(",")[0] for title in titles] == [f"u[{dim}]" for dim in range(12)]
    low, high = calibration.band()
    for dim, axes in enumerate(figure.axes):
        curve = axes.lines[-1].get_ydata()
        assert np.allclose(curve, calibration.ecdf_difference[:, dim])
        assert ((curve >= low.numpy()) & (curve <= high.numpy())).all() == (dim != 3)
    assert len(rank_ecdfs(calibration, dims=[3, 14]).axes) == 2
