"""Chains of many data in pieces, each with a seed of its own, and a file that keeps the pieces that are finished."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.errors import CheckpointError, RunError
from pyro_vae.evaluation.over_data.stream import _evenly
from pyro_vae.runtime.checkpoint import read_checkpoint, write_checkpoint
from pyro_vae.runtime.checks import check_path
from pyro_vae.runtime.differences import differences, listed
from pyro_vae.runtime.files import remedy


@dataclass(frozen=True)
class Piece:
    """Some chains of some data; all pieces have the same shape, so that the last ones overlap those before them."""

    index: int
    chains: slice
    """Of the result, which chains are taken from here."""
    data: slice
    """And which data."""
    first: int
    """The first datum that is worked on: at or before the first that is taken."""
    shape: tuple[int, int]
    """Chains and data that are worked on."""

    def taken(self, values: Tensor) -> Tensor:
        """Return of the piece's numbers ``(chains, data)`` those that are taken."""
        return values[: self.chains.stop - self.chains.start, self.data.start - self.first :]


def pieces_of(num_chains: int, num_data: int, max_rows: int, whole: bool = False) -> list[Piece]:
    """Cut chains of data into pieces of a bounded number of rows.

    Args:
        num_chains: chains of a datum.
        num_data: data.
        max_rows: chains times data of a piece, at most.
        whole: whether each piece has all data; the rows of one chain may then be more than ``max_rows``.

    >>> [(piece.chains, piece.data) for piece in pieces_of(num_chains=2, num_data=3, max_rows=4)]
    [(slice(0, 2, None), slice(0, 2, None)), (slice(0, 2, None), slice(2, 3, None))]
    """
    chains = _evenly(num_chains, max(1, max_rows // num_data) if whole else max_rows)
    width = num_data if whole else _evenly(num_data, max(1, max_rows // chains))
    pieces: list[Piece] = []
    for datum in range(0, num_data, width):
        data = slice(datum, min(datum + width, num_data))
        first = min(datum, num_data - width)
        for chain in range(0, num_chains, chains):
            taken = slice(chain, min(chain + chains, num_chains))
            pieces.append(Piece(len(pieces), taken, data, first, (chains, width)))
    return pieces


class Record:
    """The numbers of the pieces that are finished.

    Args:
        who: the caller, for messages.
        path: a file that the numbers are written to after each piece, and that an earlier run may have begun; or None.
        settings: what the numbers depend on beside the seed, as JSON can hold it.
        seed: of the whole; None takes the seed of the file, or draws one from the global generator.
        names: of the numbers.
        shape: of each, ``(num_chains, N)``.
        count: how many pieces there are.

    Raises:
        RunError: the file is of other settings or another seed, damaged, or no such file.
    """

    def __init__(
        self, who: str, path: str | Path | None, settings: Mapping[str, Any], seed: int | None,
        names: Sequence[str], shape: tuple[int, int], count: int,
    ) -> None:  # fmt: skip
        if path is not None:
            check_path(who, "out", path)
        self._who, self._path = who, None if path is None else Path(path)
        self._settings = dict(settings)
        self.level: str | None = None
        """At which level the terms are drawn, once that is known."""
        self.values = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
        """The numbers, 0 where they are not known yet."""
        self.done = torch.zeros(count, dtype=torch.bool)
        """Which pieces are finished."""
        if self._path is not None and self._path.exists():
            self._take_up(self._path, seed)
            return
        self.seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
        """Of the whole."""
        if self._path is not None:
            folder = self._path.parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(
                    f"{who}: cannot make the folder {folder}: {error.strerror}. Choose another out."
                ) from error

    def piece_seed(self, index: int) -> int:
        """Return a piece's seed: they follow one another, from a start that differs for neighbouring seeds."""
        start = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:7])
        return start + index

    def put(self, piece: Piece, numbers: Mapping[str, Tensor]) -> None:
        """Take what came of a piece, and write the file.

        Raises:
            CheckpointError: the disk refuses; the file is as it was before this piece.
        """
        for name, values in numbers.items():
            self.values[name][piece.chains, piece.data] = piece.taken(values).double().cpu()
        self.done[piece.index] = True
        if self._path is not None:
            state = {"settings": self._settings, "seed": self.seed, "level": self.level}
            try:
                write_checkpoint(self._path, {**self.values, "done": self.done}, state)
            except CheckpointError as error:
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                raise CheckpointError(
                    f"{self._who}: could not write {self._path} ({cause.strerror or cause}); what it held before is "
                    f"intact. {remedy(cause, self._path)}, then call {self._who} again with the same arguments to go "
                    f"on."
                ) from error

    def _take_up(self, path: Path, seed: int | None) -> None:
        tensors, state = read_checkpoint(path)
        wanted = self._settings if seed is None else self._settings | {"seed": seed}
        written = state.get("settings", {}) | {"seed": state.get("seed")}
        differing = list(differences({key: written.get(key) for key in wanted}, wanted))
        if differing:
            raise RunError(
                f"{self._who}: {path} cannot be continued with other settings; {listed(differing)}. Choose another out."
            )
        self.seed, self.level = state["seed"], state["level"]
        self.done = tensors.pop("done")
        self.values = tensors


def fingerprint(args: Sequence[Any], modules: Sequence[nn.Module]) -> dict[str, str]:
    """Return hashes of the data and of the modules' parameters and buffers, for settings."""
    data, parameters = hashlib.sha256(), hashlib.sha256()
    for arg in args:
        _add(data, arg)
    for module in modules:
        for name, value in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
            parameters.update(name.encode())
            _add(parameters, value)
    return {"data": data.hexdigest()[:16], "parameters": parameters.hexdigest()[:16]}


def _add(digest: "hashlib._Hash", value: Any) -> None:
    if not isinstance(value, Tensor):
        # What an object of some class holds is not known, and its repr may be another in the next process.
        digest.update(repr(value if isinstance(value, str | int | float | None) else type(value)).encode())
        return
    digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
