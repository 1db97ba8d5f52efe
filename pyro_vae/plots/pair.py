"""Figures of any fitted pair whose data are images, whatever its latent sites are called.

Each function runs the programs themselves, so that a model needs no ``prior`` and ``likelihood`` of its own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.data.quadrants import MISSING, Quadrants
from pyro_vae.evaluation.latents.data_means import prior_means, reconstruction_means, traverse
from pyro_vae.plots.run import PRIOR_TITLE, QUANTILES, image_grid, reconstructions, traversal_title
from pyro_vae.protocols import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 20
"""Labels of more classes are no rows of a figure."""


def model_samples(model: Program, x: Any, count: int = 100) -> "Figure":
    """Draw means of p(x | z) for ``count`` draws of all latent sites from the prior.

    Args:
        model: p(x, z).
        x: data ``(N, *x_shape)``, or a tuple of all positional arguments: the data only give the shape.
        count: how many.
    """
    return image_grid(prior_means(model, x, count), round(count**0.5), PRIOR_TITLE)


def rows_of_classes(x: Any) -> dict[int, int]:
    """Return the number of the first datum of each class, by the class; nothing unless the second argument are labels.

    Args:
        x: data, or a tuple of all positional arguments.

    >>> rows_of_classes((torch.zeros(4, 1, 2, 2), torch.tensor([2, 0, 2, 0])))
    {0: 1, 2: 0}
    """
    y = x[1] if isinstance(x, tuple) and len(x) > 1 else None
    if not isinstance(y, Tensor) or y.ndim != 1 or y.dtype == torch.bool or y.is_floating_point():
        return {}
    classes = y.unique().tolist()
    return {label: int((y == label).nonzero()[0]) for label in classes} if len(classes) <= MOST_CLASSES else {}


def class_samples(model: Program, x: Any, columns: int = 10) -> "Figure":
    """Draw a row for each class: means of p(x | z, y) for draws z ~ p(z | y), given the label y of the row.

    Args:
        model: p(x, z | y).
        x: a tuple of data ``(N, *x_shape)``, labels ``(N,)`` and all further arguments; the data only give the shape.
        columns: draws for each class.

    Raises:
        ValueError: the second argument are no labels, or of too many classes.
    """
    first = rows_of_classes(x)
    if not first:
        raise ValueError(f"class_samples: the second argument must be labels of at most {MOST_CLASSES} classes.")
    rows = torch.tensor(list(first.values())).repeat_interleave(columns)
    means = prior_means(model, tuple(column[rows] for column in x), len(rows))
    title = "mean of p(x | z, y), z drawn from the prior, at one y in each row"
    return image_grid(means, columns, title, [f"y = {label}" for label in first])


def completions(model: Program, x: Any, number: int, count: int = 4) -> "Figure":
    """Draw the given quadrants, several completions, and the truth: a column for each image.

    A completion is the mean of p(x | z, y) for a draw z ~ p(z | y), in the place of the missing pixels.

    Args:
        model: p(x, z | y).
        x: missing pixels ``(N, *x_shape)``, given images ``(N, *image_shape)`` and all further arguments, as
            ``load_data(..., quadrants=number)`` has them.
        number: of given quadrants.
        count: completions of each image.
    """
    missing, y = x[:2]
    quadrants = Quadrants(y.shape[1:], number)
    drawn = prior_means(model, x, count * len(y)).to(y).unflatten(0, (count, len(y)))
    given = y.where(y != MISSING, y.new_tensor(0.5))
    images = [given, *quadrants.complete(drawn, y), quadrants.complete(missing, y)]
    names = ["given", *["drawn"] * count, "truth"]
    return image_grid(
        torch.cat(images), len(y), "missing quadrants: means of p(x | z, y), z drawn from the prior", names
    )


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
