"""What a cell leaves in its folder, and what is read back."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from pyro_vae.comparison.cell import FORMAT, Cell
from pyro_vae.errors import RunError
from pyro_vae.files import write_bytes
from pyro_vae.fit.checkpoint import read_tensors
from pyro_vae.fit.run import CONFIG, METRICS, Row, read_config, read_history

EVALUATION, PER_DATUM, ERROR, FITTED = "evaluation.json", "per_datum.safetensors", "error.txt", "fitted.json"

UNFINISHED = "it was not run to its end"
"""What is said of a cell that left neither results nor an error: it waits, is at work, or was killed."""


@dataclass(frozen=True, eq=False)
class CellResult:
    """A cell that ended, well or with an error."""

    cell: Cell
    path: Path
    """Its run folder."""
    evaluation: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The numbers of ``evaluation.json``; empty where it failed."""
    per_datum: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Nats of each test image, float64 ``(N,)``: ``elbo``, ``reconstruction``, ``rate``, ``log_likelihood``, its Monte
    Carlo error ``log_likelihood_standard_errors`` and ``pareto_k``; of the first ``num_gaps`` images
    ``approximation_gap``, ``amortization_gap`` and ``inference_gap``, NaN where flagged."""
    history: list[Row] = field(default_factory=list, repr=False)
    """A row an epoch, as :class:`pyro_vae.Run` has it."""
    error: str | None = None
    """What it failed with; None where it finished."""

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        return self.error is None


def write_result(path: Path, cell: Cell, evaluation: Mapping[str, Any], per_datum: Mapping[str, Tensor]) -> None:
    """Write what was measured; ``evaluation.json`` comes last and says that the cell is finished.

    Raises:
        CheckpointError: the disk refuses.
    """
    tensors = {name: value.contiguous() for name, value in per_datum.items()}
    write_bytes(path / PER_DATUM, save(tensors, {"format": str(FORMAT)}))
    content = {"format": FORMAT, "cell": cell.hash, **evaluation}
    write_bytes(path / EVALUATION, (json.dumps(content, indent=2) + "\n").encode())
    with contextlib.suppress(FileNotFoundError):
        (path / ERROR).unlink()


def write_fitted(path: Path, cell: Cell, epochs: int) -> None:
    """Write that a cell's pair was fitted to its end, which metrics and checkpoint do not tell."""
    write_bytes(path / FITTED, (json.dumps({"format": FORMAT, "cell": cell.hash, "epochs": epochs}) + "\n").encode())


def is_fitted(path: Path, cell: Cell) -> bool:
    """Whether a folder holds the pair of a cell, fitted to its end.

    Raises:
        RunError: it holds that of another cell, or of another version.
    """
    return (path / FITTED).is_file() and bool(_read(path / FITTED, cell.hash))


def is_finished(path: Path, cell: Cell) -> bool:
    """Whether a folder holds the results of a cell.

    Raises:
        RunError: it holds those of another one, or of another version.
    """
    file = path / EVALUATION
    if not file.is_file():
        return False
    return bool(_read(file, cell.hash))


def read_result(path: Path, cell: Cell, hash: str | None = None) -> CellResult:
    """Return what a cell left in its folder; an error where it left none.

    Args:
        path: the folder.
        cell: whose it is.
        hash: that the cell had when it was run, where the file of a class of the user's own has changed since.

    Raises:
        RunError: the folder is damaged, of another cell or of another version.
    """
    if not (path / EVALUATION).is_file():
        file = path / ERROR
        error = file.read_text(encoding="utf-8") if file.is_file() else UNFINISHED
        return CellResult(cell, path, error=error)
    evaluation = _read(path / EVALUATION, hash or cell.hash)
    try:
        per_datum, _ = read_tensors(path / PER_DATUM)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{path / PER_DATUM} cannot be read: {error}. Remove {path}: it is computed again.") from error
    return CellResult(cell, path, evaluation, per_datum, read_history(path, evaluation["epochs"]))


def read_cell(path: Path) -> Cell:
    """Return the cell that a run folder was made of.

    Raises:
        RunError: it is no run folder, of another version, or was made by ``pyro_vae.fit`` without one.
    """
    recipe = read_config(path).get("recipe")
    if not isinstance(recipe, dict):
        raise RunError(
            f"{path / CONFIG} has no `recipe`: the run was made by pyro_vae.fit from objects. Read it with "
            f"pyro_vae.load_run, and evaluate it in Python."
        )
    try:
        return Cell.of(recipe)
    except ValueError as error:
        raise RunError(f"{path / CONFIG}: {error}") from error


def write_error(path: Path, error: str) -> None:
    """Record what a cell failed with."""
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / ERROR, error.encode())


def epochs_done(path: Path) -> int:
    """Return how many epochs a folder's ``metrics.csv`` has, 0 where there is none."""
    try:
        with (path / METRICS).open("rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0


def _read(file: Path, hash: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{file} cannot be read: {error}. Remove {file.parent}: it is computed again.") from error
    if found.get("format") != FORMAT:
        raise RunError(
            f"{file.parent} holds results of format {found.get('format')}; this version reads {FORMAT}. Choose another "
            f"folder, or remove it."
        )
    if found.get("cell") != hash:
        raise RunError(f"{file.parent} holds the results of another cell ({found.get('cell')}, not {hash}).")
    return found
