"""Figures of a posterior: the guide over the reference's draws, and the ranks of a calibration.

Every function returns a matplotlib ``Figure`` that is bound to no window; ``figure.savefig(path)`` keeps it.
matplotlib is imported when something is drawn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vae.evaluation.sbc import SBC

DOTS = 1000
"""Most reference draws that are shown: more would hide each other."""

MASSES = (0.9, 0.5)
"""Shares of the guide's mass inside its contours, the larger first."""

GRID = 60
"""Points along each axis at which the guide's density is estimated."""

REFERENCE, GUIDE = "0.45", "tab:orange"


def pairwise_marginals(
    reference: Tensor, guide: Tensor, dims: Sequence[int] | None = None, labels: Sequence[str] = ()
) -> "Figure":
    """Draw the reference as dots and the guide as contours for each pair of dims, with one-dim marginals above.

    Contours hold 50 % and 90 % of the guide's mass, by a Gaussian kernel density of its draws.

    Args:
        reference: draws of the posterior of one datum ``(num_draws, dim)``, as
            ``reference.draws[:, :, i].flatten(0, 1)``.
        guide: draws of the guide for it ``(num_samples, dim)``, as ``error.guide_draws[:, i]``.
        dims: which to show; the first five unless given.
        labels: of the dims shown; "u[d]" unless given.

    Raises:
        ValueError: the two differ in the number of dims, have fewer than ten draws, or a value is not finite.
    """
    from matplotlib.figure import Figure

    samples = [draws.detach().double().cpu() for draws in (reference, guide)]
    unusable = [draws.ndim != 2 or len(draws) < 10 or not draws.isfinite().all() for draws in samples]
    if any(unusable) or samples[0].shape[1] != samples[1].shape[1]:
        raise ValueError(
            f"pairwise_marginals: expected finite draws (num_draws, dim) of one datum, ten at least, of reference and "
            f"guide; got shapes {tuple(reference.shape)} and {tuple(guide.shape)}."
        )
    shown = list(range(min(5, samples[0].shape[1]))) if dims is None else list(dims)
    dots, contours = (draws[:, shown].numpy() for draws in samples)
    names = labels or [f"u[{dim}]" for dim in shown]
    size = len(shown)
    figure = Figure(figsize=(1.2 + 1.7 * size, 0.8 + 1.7 * size), layout="constrained", dpi=120)
    axes = figure.subplots(size, size, squeeze=False)
    ranges = [_range(dots[:, k], contours[:, k]) for k in range(size)]
    for row in range(size):
        for column in range(size):
            panel = axes[row, column]
            if column > row:
                panel.set_axis_off()
                continue
            panel.set_xlim(ranges[column])
            if column == row:
                _marginal(panel, dots[:, row], contours[:, row], ranges[row])
            else:
                panel.set_ylim(ranges[row])
                some = dots[:: -(-len(dots) // DOTS)]
                panel.plot(some[:, column], some[:, row], ".", color=REFERENCE, markersize=2, alpha=0.5, zorder=1)
                _contours(panel, contours[:, [column, row]], ranges[column], ranges[row])
            panel.tick_params(labelsize=6, labelbottom=row == size - 1, labelleft=column == 0 < row)
            if row == size - 1:
                panel.set_xlabel(names[column], fontsize=8)
            if column == 0 < row:
                panel.set_ylabel(names[row], fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", fontsize=8, frameon=False)
    return figure


def rank_ecdfs(calibration: "SBC", dims: Sequence[int] | None = None) -> "Figure":
    """Draw the ranks' ECDF minus the uniform one, with the band that holds the whole curve in 95 % of runs.

    A curve above the band on the left and below it on the right means that the guide is too narrow. The reverse means
    that it is too wide. A curve that leaves the band on one side only means that the guide's location is off.

    Args:
        calibration: what :func:`pyro_vae.evaluation.sbc` returned.
        dims: which to show; the twelve with the smallest p-values unless given.
    """
    from matplotlib.figure import Figure

    known = int((~calibration.p_values.isnan()).sum())
    worst = calibration.p_values.argsort().tolist()[: min(12, known)]
    shown = sorted(worst) if dims is None else list(dims)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(0.6 + 2.2 * columns, 0.7 + 1.7 * rows), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    difference = calibration.ecdf_difference.numpy()
    at = np.arange(1, calibration.num_draws + 1) / (calibration.num_draws + 1)
    for panel, dim in zip(axes, shown, strict=False):
        low, high = (limit.numpy() for limit in calibration.band(dim=dim))
        panel.fill_between(at, low, high, color="0.85", linewidth=0)
        panel.axhline(0, color="0.6", linewidth=0.5)
        panel.step(at, difference[:, dim], where="mid", color=GUIDE, linewidth=1)
        panel.set_title(f"u[{dim}], p = {calibration.p_values[dim].item():.2g}", fontsize=8)
        panel.tick_params(labelsize=6)
    for panel in axes[len(shown) :]:
        panel.set_axis_off()
    figure.supxlabel("rank of the true latent, as a share", fontsize=8)
    figure.supylabel("ECDF minus uniform", fontsize=8)
    return figure


def _range(*samples: np.ndarray) -> tuple[float, float]:
    """Return an interval that holds 99.6 % of each sample, with a margin."""
    low = min(float(np.quantile(sample, 0.002)) for sample in samples)
    high = max(float(np.quantile(sample, 0.998)) for sample in samples)
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _marginal(axes: Any, dots: np.ndarray, guide: np.ndarray, limits: tuple[float, float]) -> None:
    at = np.linspace(*limits, 200)
    axes.hist(dots, bins=40, range=limits, density=True, color=REFERENCE, alpha=0.5, label="reference")
    axes.plot(at, _density(guide[:, None], at[None]), color=GUIDE, linewidth=1, label="guide")
    axes.set_yticks([])


def _contours(axes: Any, guide: np.ndarray, across: tuple[float, float], up: tuple[float, float]) -> None:
    x, y = np.meshgrid(np.linspace(*across, GRID), np.linspace(*up, GRID))
    density = _density(guide, np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    # A draw lies inside the contour of a mass m with probability m: at the 1 - m quantile of the draws' density.
    levels = np.quantile(_density(guide, guide.T), [1 - mass for mass in MASSES])
    if levels[0] < levels[-1]:
        axes.contour(x, y, density, levels=levels, colors=GUIDE, linewidths=1, zorder=2)


def _density(draws: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return a kernel density of draws ``(num_draws, dims)`` at points ``(dims, num_points)``."""
    from scipy.stats import gaussian_kde

    # Draws on a point or a line have no density.
    jitter = 1e-9 * (np.abs(draws).max() + 1)
    noise = torch.randn(draws.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    return np.asarray(gaussian_kde((draws + jitter * noise).T)(at))
