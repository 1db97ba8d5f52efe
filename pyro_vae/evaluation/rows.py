"""Some rows of a pair's arguments."""

from typing import Any, Protocol

import torch
from torch import Tensor, device

from pyro_vae.checks import in_short
from pyro_vae.fit.batches import check_rows
from pyro_vae.programs import data_args, modules_of
from pyro_vae.protocols import Program

HEAD = 127
"""Data that a pair is run on at a time to look at its masks."""


class _Masked(Protocol):
    """A joint density, or a pair."""

    masked: bool

    def check_masks(self, x: Any) -> None:
        """Refuse masks that make no sense on these data."""


class Rows:
    """The arguments of a pair, by data: tensors as long as the first are cut, anything else is handed on whole.

    Args:
        who: the caller, for messages.
        x: data ``(N, ...)``, or a tuple of all positional arguments that starts with them.
        programs: whose parameters' device is used.

    Raises:
        ValueError: x is no tensor, is empty or not finite.
    """

    def __init__(self, who: str, x: Any, *programs: Program) -> None:
        self.args = data_args(who, x, *programs)
        """All arguments."""
        first = self.args[0]
        if not isinstance(first, Tensor) or first.ndim == 0:
            raise ValueError(
                f"{who}: x must be a tensor (N, ...), or a tuple that starts with one; got {in_short(first)}."
            )
        check_rows(f"{who}: x", first)
        self.size = len(first)
        """N."""
        self.modules = modules_of(*programs)
        self.device: device = next((p.device for m in self.modules for p in m.parameters()), first.device)
        self.unit = "image" if first.ndim > 2 else "datum"
        """What a datum is called."""

    def take(self, rows: slice | Tensor) -> tuple[Any, ...]:
        """Return the arguments with the given data, on the programs' device."""
        return tuple(
            arg[rows.to(arg.device) if isinstance(rows, Tensor) else rows].to(self.device)
            if isinstance(arg, Tensor) and arg.ndim and len(arg) == self.size
            else arg.to(self.device)
            if isinstance(arg, Tensor)
            else arg
            for arg in self.args
        )

    def check_masks(self, *parts: "_Masked") -> None:
        """Check all data against the masks on latent sites, where there are any.

        Raises:
            PairError, ValueError: as ``check_masks`` of the parts.
        """
        parts = tuple(part for part in parts if part.masked)
        width = min(self.size, HEAD)
        for start in range(0, self.size if parts else 0, width):
            # All blocks have one size, as a program may ask for.
            block = self.take(torch.arange(start, start + width) % self.size)
            for part in parts:
                part.check_masks(block)
