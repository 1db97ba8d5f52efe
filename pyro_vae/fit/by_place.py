"""Refuse parameters that belong to a datum by its place in the batch, where another datum would get them."""

from typing import Any

from pyro_vae.errors import PairError
from pyro_vae.fit.batches import Batches
from pyro_vae.programs.held import data_held, makes_for_each, other_data
from pyro_vae.programs.modules import as_args, first_rows
from pyro_vae.protocols import Program


def check_places(model: Program, guide: Program, x: Any, batches: Batches, *, validated: bool) -> None:
    """Refuse such parameters where batches hold other data each time, or where there are validation data.

    Args:
        model: p(x, z), as it is before the first run.
        guide: q(z | x), the same.
        x: the first batch, or a tuple of all positional arguments.
        batches: of the training data.
        validated: whether there are validation data.

    Raises:
        PairError: says whose parameters these are, and what to do.
    """
    rows, held = first_rows(as_args(x)), data_held(guide, x, model)
    what = "guide" if held is not None or makes_for_each(guide, x) else "model" if makes_for_each(model, x) else None
    if what is None:
        return
    if held not in (None, rows):
        raise PairError(f"fit: {other_data(held, rows)}")
    has = f"fit: the {what} has parameters for each datum by its place, as AutoNormal has,"
    if not batches.same:
        raise PairError(
            f"{has} and batches of {rows} hold other data each time: pass all data as one batch, "
            f"batch_size=len(data); or give the data numbers, fit(model, guide, (x, torch.arange(len(x)))), and let "
            f"model and guide take their parameters by number, pyro.plate('data', N, subsample=number) "
            f"(create_plates of an automatic guide); or use a guide that reads its parameters off x."
        )
    if validated:
        raise PairError(
            f"{has} and none for validation data: leave these out, and pass an ImageData's training data alone, "
            f"data.train; or use a guide that reads its parameters off x."
        )
