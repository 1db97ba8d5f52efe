"""Data with NaN or infinite values, which are bad unless a mask of the model hides each of them."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.programs.modules import as_args, in_mode, modules_of, num_rows, some_rows
from pyro_vae.programs.nonfinite import find_missing
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.protocols import Program
from pyro_vae.runtime.wording import in_one_line

BLOCK = 1000
"""Data that are run at a time."""


def check_not_empty(what: str, rows: Tensor) -> None:
    """Refuse data of which there are none."""
    if rows.numel() == 0:
        raise ValueError(f"{what}: there are none (shape {tuple(rows.shape)}).")


def all_finite(rows: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    # A sum is finite only if every term is, and takes one pass without a mask as large as the data.
    return not rows.is_floating_point() or bool(rows.sum(dtype=torch.float64).isfinite()) or bool(rows.isfinite().all())


def check_finite_rows(what: str, x: Any, model: Program | None = None, guide: Program | None = None) -> None:
    """Refuse values that are NaN or infinite, but for those that the programs are seen to hide.

    Where there are such values, their data are run through the programs once: a mask (``.mask(...)``,
    ``poutine.mask``, ``obs_mask``) must hide each from the density, and the guide must not let it into a law.

    Args:
        what: is checked, for messages.
        x: data ``(N, ...)``, or a tuple of all arguments that starts with them.
        model: p(x, z), where it is known.
        guide: q(z | x), where it is known.

    Raises:
        ValueError: says how many values and where the first one is.
    """
    args = as_args(x)
    size = num_rows(args[0])
    columns = [arg for arg in args if isinstance(arg, Tensor) and num_rows(arg) == size and not all_finite(arg)]
    if not columns:
        return
    bad = (~columns[0].isfinite()).nonzero()
    reached = None
    if model is not None or guide is not None:
        missing = torch.cat([(~column.isfinite()).nonzero()[:, 0].cpu() for column in columns]).unique()
        modules = modules_of(model, guide)
        with in_mode(modules, training=False), no_side_effects(modules):
            reached = _reached(model, guide, args, missing)
        if reached is None:
            return
    values = "values are" if len(bad) > 1 else "value is"
    raise ValueError(
        f"{what}: {len(bad)} {values} NaN or infinite, the first at index {tuple(bad[0].tolist())}. Clean the data "
        f"before fitting.{reached or ''}"
    )


def _reached(model: Program | None, guide: Program | None, args: tuple[Any, ...], index: Tensor) -> str | None:
    """Return what to say of NaN or infinite values in the data at ``index``, or None where all are hidden."""
    try:
        for block in index.split(BLOCK):
            reached = find_missing(model, guide, some_rows(args, block, num_rows(args[0])))
            if reached is not None:
                return reached
        return None
    except (ValueError, RuntimeError, IndexError):
        # A plate of a fixed size takes all data, or none.
        pass
    try:
        with pyro.validation_enabled(False):
            return find_missing(model, guide, args)
    except (ValueError, RuntimeError, IndexError) as error:
        return f" Run on them, the pair fails: {in_one_line(error)}."
