"""Samples, reconstructions and traversals of a comparison's fitted cells, as images for a page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyro_vae import plots
from pyro_vae.comparison.results import CellResult
from pyro_vae.comparison.run_cell import load_data_of_run, load_pair
from pyro_vae.comparison.task import folder_of
from pyro_vae.data import ImageData
from pyro_vae.data.image_data import Inputs, first_of
from pyro_vae.programs.modules import local_params
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import in_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, COLUMNS, ROWS = 64, 10, 3
"""Number of samples from the prior; columns and rows of test images, each with its reconstruction below it."""

COMPLETED = (
    "A column for each test image: the given quadrants; means of p(x | z, y) for the others, z drawn from the prior; "
    "and the image."
)
"""Caption of images whose missing quadrants are completed."""

UNITS = 8
"""Largest number of latent units that are traversed."""


@dataclass(frozen=True)
class Picture:
    """An image on a page."""

    title: str
    uri: str = field(repr=False)
    """The content of the PNG file, as a ``data:`` URI."""
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class CellPictures:
    """The pictures of a cell."""

    result: CellResult
    pictures: Sequence[Picture]
    failures: Sequence[str]
    """A line for each picture that could not be drawn, with the reason."""


def draw_cells(results: Sequence[CellResult], out: Path, moved: str | Path | None = None) -> list[CellPictures]:
    """Draw pictures of finished cells from their run folders.

    If a cell cannot be read or drawn, the reason is in its ``failures``; the others are drawn.

    Args:
        results: of the cells to draw.
        out: folder of the comparison.
        moved: where the data are now, if they are no longer where the cells read them.
    """
    loaded: dict[tuple[Any, ...], ImageData] = {}
    drawn = []
    for result in results:
        key = result.cell.data_settings
        try:
            if key not in loaded:
                loaded[key] = load_data_of_run(result.path, result.cell, moved)
            drawn.append(_draw_cell(result, out, loaded[key]))
        except Exception as error:
            # A user's own class may raise any error, and the other cells are still drawn.
            drawn.append(CellPictures(result, [], [f"nothing can be drawn: {in_one_line(error)}"]))
    return drawn


def _draw_cell(result: CellResult, out: Path, data: ImageData) -> CellPictures:
    if data.not_drawn:
        return CellPictures(result, [], [data.not_drawn])
    cell = result.cell
    model, guide = load_pair(
        result.path, cell, data, None if cell.fitted_model is None else folder_of(out, cell.fitted_model)
    )
    test = data.first(cell.num_test)
    units = result.measured["active_units"]["most_active"][:UNITS]
    drawers: dict[str, Callable[[], tuple[Figure, str]]] = {
        "samples": lambda: _samples(model, data),
        "reconstructions": lambda: (
            plots.pair_reconstructions(model, guide, first_of(test, COLUMNS * ROWS), COLUMNS),
            "Test images, and below each row the means of p(x | z), z drawn from q(z | x).",
        ),
        "traversal": lambda: _traversal(model, guide, data.first(1), units),
    }  # fmt: skip
    if data.quadrants is not None:
        number = data.quadrants
        drawers = {"completions": lambda: (plots.completions(model, data.first(COLUMNS), number), COMPLETED)}
    pictures, failures = [], []
    with seeded(cell.seed), torch.no_grad(), local_params(model, guide):
        for title, draw in drawers.items():
            try:
                pictures.append(_picture(title, *draw()))
            except Exception as error:
                # As above: a guide of the training images alone cannot reconstruct, but its model still has samples.
                failures.append(f"{title}: {in_one_line(error)}")
    return CellPictures(result, pictures, failures)


def _samples(model: Any, data: ImageData) -> "tuple[Figure, str]":
    classes = plots.rows_of_classes(data.test)
    if not classes:
        return plots.model_samples(model, data.first(SAMPLES), SAMPLES), "Means of p(x | z), z drawn from the prior."
    caption = (
        f"Means of p(x | z, y), z drawn from the prior, at one label y in each row. From the top: "
        f"{', '.join(map(str, classes))}."
    )
    return plots.class_samples(model, data.test, COLUMNS), caption


def _traversal(model: Any, guide: Any, first: Inputs, units: Sequence[int]) -> "tuple[Figure, str]":
    figure, shown, left_out = plots.pair_traversal(model, guide, first, units)
    low, high = (round(100 * share.item()) for share in plots.QUANTILES[[0, -1]])
    caption = (
        f"Each row: one latent unit from the {low} % to the {high} % quantile of its prior, the others at the first "
        f"test image's posterior mean, or where their law follows the unit, at its mean. From the top: "
        f"{', '.join(shown)}."
    )
    return figure, " ".join([caption, *(f"Left out: {unit}, as {reason}." for unit, reason in left_out.items())])


def _picture(title: str, figure: "Figure", caption: str) -> Picture:
    """Return the pixels of a grid of images, without the frame and the title around them."""
    from PIL import Image

    (axes,) = figure.axes
    (grid,) = axes.images
    pixels = np.rint(255 * np.asarray(grid.get_array())).astype(np.uint8)
    grey = bool((pixels == pixels[..., :1]).all())
    written = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(written, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return Picture(title, uri, pixels.shape[1], pixels.shape[0], caption)
