"""Compare data with those that a run was fitted to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.data import ImageData
from pyro_vae.errors import RunError
from pyro_vae.fit.batches import describe_data
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.differences import differences, listed

COMPARED = ("content_hash", "binarization", "seed", "sizes", "shape", "shapes", "tensors")
"""The fields of two descriptions that must agree; name and source say only where the data lay."""


def differing_data(recorded: Any, found: Any, name: str = "") -> list[str]:
    """Return how the data of two descriptions differ, wherever they lie; without a hash all fields must agree."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping) and recorded.get("content_hash"):
        recorded, found = ({name: each.get(name) for name in COMPARED} for each in (recorded, found))
    return list(differences(recorded, found, name))


def require_same_data(
    recorded: Mapping[str, Any], data: ImageData | Tensor | tuple[Tensor, ...], where: Path | str,
    remedy: str | None = None,
) -> None:  # fmt: skip
    """Refuse data that are not those of a run.

    Args:
        recorded: what the run's configuration says of its data.
        data: those at hand.
        where: the run folder, for the message.
        remedy: the end of the message: what can be done. By default, data that have moved are named.

    Raises:
        RunError: they differ; the message says in what.
    """
    found = describe_data(data)
    if not recorded.get("content_hash"):
        raise RunError(f"{where} does not say which data it was fitted to ({recorded['name']} has no hash).")
    differing = differing_data(recorded, found)
    if differing:
        remedy = remedy or f"Where the old data lie elsewhere, name them with {argument('data', '...')}."
        raise RunError(
            f"{where} was fitted to other data than are in {found['name']} now; {listed(differing)}. {remedy}"
        )
