"""Figures of any fitted pair whose data are images, whatever its latent sites are called.

Each function runs the programs themselves, so that a model needs no ``prior`` and ``likelihood`` of its own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyro_vae.evaluation.latents.data_means import prior_means, reconstruction_means, traverse
from pyro_vae.plots.run import PRIOR_TITLE, QUANTILES, image_grid, reconstructions, traversal_title
from pyro_vae.protocols import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def model_samples(model: Program, x: Any, count: int = 100) -> "Figure":
    """Draw means of p(x | z) for ``count`` draws of all latent sites from the prior.

    Args:
        model: p(x, z).
        x: data ``(N, *x_shape)``, or a tuple of all positional arguments: the data only give the shape.
        count: how many.
    """
    return image_grid(prior_means(model, x, count), round(count**0.5), PRIOR_TITLE)


def pair_reconstructions(model: Program, guide: Program, x: Any, columns: int = 10) -> "Figure":
    """Draw data in odd rows, and the mean of p(x | z) with z ~ q(z | x) under each in even rows.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: data ``(N, *x_shape)``, or a tuple of all positional arguments.
        columns: images in a row.
    """
    data = x[0] if isinstance(x, tuple) else x
    return reconstructions(data, reconstruction_means(model, guide, x).to(data), columns)


def pair_traversal(
    model: Program, guide: Program, x: Any, units: Sequence[int]
) -> "tuple[Figure, tuple[str, ...], dict[str, str]]":
    """Draw a row for each unit, swept through the quantiles of its prior from the posterior of the first datum.

    What is held, and what follows: :func:`pyro_vae.evaluation.latents.data_means.traverse`.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: data ``(N, *x_shape)``, or a tuple of all positional arguments.
        units: numbers of units, as :attr:`pyro_vae.evaluation.ActiveUnits.most_active` has them.

    Returns:
        The figure, the units of its rows, and why others are left out, by the unit.

    Raises:
        ValueError: no unit can be moved by itself; or as for :func:`traverse`.
    """
    moved = traverse(model, guide, x, units, QUANTILES)
    if not moved.units:
        reasons = "; ".join(f"{unit}: {reason}" for unit, reason in moved.left_out.items())
        raise ValueError(f"pair_traversal: no latent unit can be moved by itself. {reasons}")
    figure = image_grid(moved.means.flatten(0, 1), len(QUANTILES), traversal_title(QUANTILES), moved.units)
    return figure, moved.units, moved.left_out
