"""Whether data are those that a run was fitted to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.data import ImageData
from pyro_vae.errors import RunError
from pyro_vae.fit.batches import describe_tensors

COMPARED = ("content_hash", "binarization", "seed", "sizes", "shape", "shapes")
"""Of two descriptions; a name and a source say only where the data lay."""


def are_the_same(recorded: Any, found: Any) -> bool:
    """Whether two descriptions are of the same data, wherever they lie; without hashes the descriptions must agree."""
    if not (isinstance(recorded, Mapping) and isinstance(found, Mapping) and recorded.get("content_hash")):
        return bool(recorded == found)
    return all(recorded.get(name) == found.get(name) for name in COMPARED)


def require_same_data(
    recorded: Mapping[str, Any], data: ImageData | Tensor | tuple[Tensor, ...], where: Path | str
) -> None:
    """Refuse data that are not those of a run.

    Args:
        recorded: what the run's configuration says of its data.
        data: those at hand.
        where: the run folder, for the message.

    Raises:
        RunError: they differ; the message says in what.
    """
    found = data.describe() if isinstance(data, ImageData) else describe_tensors(data)
    if not recorded.get("content_hash"):
        raise RunError(f"{where} does not say which data it was fitted to ({recorded['name']} has no hash).")
    differing = [
        f"{name} was {recorded.get(name)}, is {found.get(name)}"
        for name in COMPARED
        if recorded.get(name) != found.get(name)
    ]
    if differing:
        raise RunError(
            f"{where} was fitted to other data than are in {found['name']} now: {'; '.join(differing)}. Where the old "
            f"data lie elsewhere, name them with --data, or in Python data=..."
        )
