"""Figures of a run: learning curves, reconstructions, samples, traversals, the latent manifold.

Every function returns a matplotlib ``Figure`` that is bound to no window; ``figure.savefig(path)`` keeps it.
Images are ``(channels, height, width)`` with one or three channels; what a pixel shows is the likelihood's mean.
matplotlib and torchvision are imported when something is drawn, so that other scripts start without them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.fit.run import Row
from pyro_vae.protocols import Likelihood, Prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILES = torch.linspace(0.02, 0.98, 11)
"""Prior quantiles that a traversal visits: the middle 96 %, the median in the middle."""


PRIOR_TITLE = "mean of p(x | z), z drawn from the prior"


def learning_curves(history: Sequence[Row], bound: str = "ELBO") -> "Figure":
    """Draw the training and the validation bound against the epoch.

    In a run of more than 20 epochs the vertical axis is cut below the fifth percentile of the curves, so that the
    first epochs do not flatten all that follows.

    Args:
        history: rows of a run.
        bound: name of the objective, for the axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    curves = {name: [row[f"{name}_bound_nats"] for row in history] for name in ("train", "valid")}
    for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
        if torch.tensor(curve).isfinite().any():
            axes.plot(epochs, curve, style, marker="." if len(epochs) < 20 else None, label=name)
    values = torch.tensor([value for curve in curves.values() for value in curve], dtype=torch.float64)
    values = values[values.isfinite()]
    low, high = values.quantile(0.05 if len(epochs) > 20 else 0.0).item(), values.max().item()
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set(xlabel="epoch", ylabel=f"{bound} (nats per datum)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def reconstructions(x: Tensor, means: Tensor, columns: int = 10) -> "Figure":
    """Draw data ``(N, *x_shape)`` in odd rows, and under each the mean of p(x | z) with z ~ q(z | x) in even rows."""
    rows = []
    for start in range(0, len(x), columns):
        rows += [x[start : start + columns], means[start : start + columns]]
    return image_grid(torch.cat(rows), columns, "test images, and below each its reconstruction")


def prior_samples(prior: Prior, likelihood: Likelihood, count: int = 100) -> "Figure":
    """Draw means of p(x | z) for ``count`` draws z ~ p(z)."""
    with torch.no_grad():
        images = likelihood(prior().sample(torch.Size([count]))).mean
    return image_grid(images, round(count**0.5), PRIOR_TITLE)


def latent_traversal(
    prior: Prior, likelihood: Likelihood, center: Tensor, dims: Sequence[int], quantiles: Tensor = QUANTILES
) -> "Figure":
    """Sweep each of ``dims`` through the prior's quantiles, the others held at ``center``; one row a dimension.

    The quantiles are estimated from 10 000 draws of the prior, so that any prior can be used.

    Args:
        prior: p(z).
        likelihood: p(x | z).
        center: z ``(latent_dim,)`` to start from, as the posterior mean of an image.
        dims: latent dimensions, as the most active ones.
        quantiles: increasing, in (0, 1).
    """
    with torch.no_grad():
        draws = prior().sample(torch.Size([10_000]))
        rows = []
        for dim in dims:
            z = center.repeat(len(quantiles), 1)
            z[:, dim] = draws[:, dim].quantile(quantiles.to(draws))
            rows.append(likelihood(z).mean)
    return image_grid(torch.cat(rows), len(quantiles), traversal_title(quantiles), [f"z[{dim}]" for dim in dims])


def traversal_title(quantiles: Tensor) -> str:
    """Return the title of a traversal of these quantiles."""
    low, high = 100 * quantiles[0].item(), 100 * quantiles[-1].item()
    return f"each row: one latent unit from the {low:.0f} % to the {high:.0f} % quantile of its prior"


def manifold(likelihood: Likelihood, like: Tensor, columns: int = 20) -> "Figure":
    """Draw means of p(x | z) on a grid over a two-dimensional latent space, evenly spaced in prior probability.

    Args:
        likelihood: p(x | z) with two latent dimensions, under a standard normal prior.
        like: a tensor on the likelihood's device, of its dtype.
        columns: points along each axis.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, figure 4, arXiv 1312.6114.
    """
    levels = torch.linspace(0.5 / columns, 1 - 0.5 / columns, columns, device=like.device, dtype=like.dtype)
    axis = torch.special.ndtri(levels)
    z = torch.stack(torch.meshgrid(axis, -axis, indexing="xy"), dim=-1).flatten(0, 1)
    with torch.no_grad():
        images = likelihood(z).mean
    return image_grid(images, columns, "mean of p(x | z) over the latent plane, even in prior probability")


def image_grid(images: Tensor, columns: int, title: str, row_labels: Sequence[str] = ()) -> "Figure":
    """Draw images ``(N, *x_shape)`` in rows of ``columns``, on a common grey scale from 0 to 1.

    Raises:
        ValueError: an image is not ``(channels, height, width)`` with one or three channels.
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"plots: images must have shape (N, 1 or 3, height, width); got {tuple(images.shape)}. "
            f"Figures of images are for image data."
        )
    grid = make_grid(images.detach().cpu().float().clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
    height, width = grid.shape[1:]
    inches = 0.3 + columns * 0.45
    figure = Figure(figsize=(inches, inches * height / width + 0.35), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    axes.imshow(grid.permute(1, 2, 0).numpy(), vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    if row_labels:
        step = images.shape[2] + 1
        axes.set_yticks([step * (row + 0.5) for row in range(len(row_labels))], row_labels, fontsize=7)
        axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
