"""Write the results of a cell into its folder, and read them back."""

import contextlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from pyro_vae.comparison.cell import FORMAT, Cell
from pyro_vae.comparison.evaluation_file import check_evaluation
from pyro_vae.comparison.evaluations import find_evaluation
from pyro_vae.comparison.quantities import Quantity, is_estimate, quantities_of
from pyro_vae.comparison.recorded_code import changed_code, missing_package, needs_trust, record_of
from pyro_vae.errors import RunError
from pyro_vae.fit.run import CONFIG, METRICS, Row, read_config, read_history
from pyro_vae.runtime.differences import differences, listed
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.reading import Fields, read_json, read_tensors, read_text, shown
from pyro_vae.runtime.trust import names_from

TOLD_TWICE = ("batch_size", "seed", "compile", "kl_warmup", "clip_grad_norm", "patience")
"""Settings that the configuration of a cell's run has outside of its recipe as well."""

ELBO = "elbo_terms.elbo"
"""Name of the values that every cell has measured on all of its test images."""

EVALUATION, PER_DATUM, ERROR, FITTED = "evaluation.json", "per_datum.safetensors", "error.txt", "fitted.json"
ROUNDING = 1e-5
"""By how much a mean may differ if it was added up in another order or precision."""

UNFINISHED = "it was not run to its end"
"""The error of a cell that left neither results nor an error: it waits, is at work, or was killed."""


@dataclass(frozen=True, eq=False)
class CellResult:
    """The results of a cell, or the error with which it failed."""

    cell: Cell
    path: Path
    """Its run folder."""
    evaluation: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The numbers of ``evaluation.json``; empty if the cell failed."""
    per_datum: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Numbers of each test image, float64 ``(N,)``, by ``EVALUATION.NAME``, as ``elbo_terms.elbo`` and
    ``log_likelihood.pareto_k``, with Monte Carlo errors as ``elbo_terms.elbo.standard_errors``; NaN for an image that
    is left out. If an evaluation measures fewer images, its numbers are those of the first images."""
    history: list[Row] = field(default_factory=list, repr=False)
    """A row for each epoch, as in :class:`pyro_vae.Run`."""
    error: str | None = None
    """The error with which the cell failed; None if it finished."""

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        return self.error is None

    @property
    def error_line(self) -> str:
        """The first line of its error; "" if it finished."""
        return (self.error or "").partition("\n")[0]

    @property
    def measured(self) -> Mapping[str, Mapping[str, Any]]:
        """The summary of each evaluation, by its name; empty if the cell failed."""
        return self.evaluation.get("measured", {})

    @property
    def failed_evaluations(self) -> Mapping[str, str]:
        """The error of each evaluation that failed after the fit, in one line, by the evaluation's name."""
        return self.evaluation.get("failed_evaluations", {})

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """The quantities that are columns of tables, by name."""
        users_evaluations = [find_evaluation(name) for name in self.cell.evaluations if ":" in name]
        return quantities_of(self.measured, {evaluation.name: evaluation.result for evaluation in users_evaluations})

    def summary_of(self, quantity: str) -> Any:
        """Return a quantity's mean with its errors, as :meth:`Estimate.summary` does, or its number; else None."""
        column = self.quantities.get(quantity)
        return None if column is None else self.measured[column.evaluation][column.key]

    def values_of(self, quantity: str) -> Tensor | None:
        """Return a quantity of each test image, float64 ``(N,)``; None if it was not measured for each image."""
        column = self.quantities.get(quantity)
        return self.per_datum.get(quantity if column is None else column.place)


def write_result(path: Path, cell: Cell, evaluation: Mapping[str, Any], per_datum: Mapping[str, Tensor]) -> None:
    """Write what was measured; ``evaluation.json`` comes last and says that the cell is finished.

    Raises:
        CheckpointError: the disk refuses.
    """
    # Copies, as safetensors writes no tensor under two names.
    tensors = {name: value.contiguous().clone() for name, value in per_datum.items()}
    write_bytes(path / PER_DATUM, save(tensors, {"format": str(FORMAT)}))
    _write(path / EVALUATION, cell, evaluation)
    (path / ERROR).unlink(missing_ok=True)


def write_fitted(path: Path, cell: Cell, epochs: int) -> None:
    """Record that a cell's pair was fitted to its end, which metrics and checkpoint do not show."""
    _write(path / FITTED, cell, {"epochs": epochs})


def _write(file: Path, cell: Cell, content: Mapping[str, Any]) -> None:
    """Write a JSON file with the hash and settings of its cell."""
    content = {"format": FORMAT, "cell": cell.hash, "settings": cell.settings(), **record_of(cell), **content}
    write_bytes(file, (json.dumps(content, indent=2) + "\n").encode())


def is_fitted(path: Path, cell: Cell, *, only_reads: bool = False) -> bool:
    """Whether a folder holds the pair of a cell, fitted to its end.

    Args:
        path: the folder.
        cell: that was run there.
        only_reads: the caller computes no cell anew, so that messages do not advise to remove the folder of a run
            whose code has changed.

    Raises:
        RunError: it holds the pair of another cell, or of another version.
    """
    return (path / FITTED).is_file() and bool(_read(path / FITTED, cell, cell.hash, only_reads))


def is_finished(path: Path, cell: Cell, *, only_reads: bool = False) -> bool:
    """Whether a folder holds the results of a cell.

    Args: as for :func:`is_fitted`.

    Raises:
        RunError: it holds the results of another cell, or of another version.
    """
    return (path / EVALUATION).is_file() and bool(_read(path / EVALUATION, cell, cell.hash, only_reads))


def check_results(path: Path) -> None:
    """Raise a RunError that names the file and the field if a run folder has damaged results."""
    file = path / EVALUATION
    if file.is_file():
        check_evaluation(read_json(file, path), str(file))


def read_result(path: Path, cell: Cell, hash: str | None = None) -> CellResult:
    """Return the results of a cell from its folder; if there are none, the result has an error.

    Args:
        path: the folder.
        cell: the cell that was run there.
        hash: the cell's hash when it was run. By default its hash now, which differs if a file of the user's own, or of
            an installed package, has changed since.

    Raises:
        RunError: the folder is damaged, of another cell or of another version.
    """
    if not (path / EVALUATION).is_file():
        file = path / ERROR
        text = read_text(file, path) if file.is_file() else UNFINISHED
        # Without the characters that steer a terminal.
        return CellResult(cell, path, error="".join(c for c in text if c.isprintable() or c in "\n\t"))
    evaluation, per_datum = _read(path / EVALUATION, cell, hash or cell.hash), _read_per_datum(path)
    _require_means(evaluation, per_datum, path)
    return CellResult(cell, path, evaluation, per_datum, read_history(path, evaluation["epochs"]))


def read_cell(path: Path, *, trust: bool = False, named: Collection[str] = ()) -> Cell:
    """Return the cell that a run folder was made of.

    Args:
        path: the run folder.
        trust: import the classes that it names, also those of other packages and files.
        named: classes that it may name without ``trust``, as the user has named them as well.

    Raises:
        RunError: the folder is no run, of another version, was made by ``pyro_vae.fit`` without a cell, or names a
            class that is not trusted.
    """
    config = read_config(path)
    recipe = config.get("recipe")
    if not isinstance(recipe, dict):
        raise RunError(
            f"{path / CONFIG} has no `recipe`: the run was made by pyro_vae.fit from objects. Read it with "
            f"pyro_vae.load_run, and evaluate it in Python."
        )
    try:
        with names_from(path / CONFIG, trust=trust, named=named):
            cell = Cell.of(recipe)
    except RunError:
        raise
    except ValueError as error:
        names_own_code = ":" in str(recipe.get("measure", ""))
        remedy = " Put back what it names; pyro_vae.load_run reads the pair without it." if names_own_code else ""
        raise RunError(f"{path / CONFIG}: {error}{remedy}{missing_package(recipe, _packages_in(path))}") from error
    for name in TOLD_TWICE:
        recorded, setting = config.get(name), getattr(cell, name)
        if type(recorded) is not type(setting) or recorded != setting:
            raise RunError(f"{path / CONFIG}: `{name}` is {shown(recorded)}, and its recipe says {shown(setting)}.")
    return cell


def _packages_in(path: Path) -> list[object]:
    """Return the packages that the results in a folder record, unchecked, as far as they can be read."""
    packages = []
    for file in (path / FITTED, path / EVALUATION):
        with contextlib.suppress(RunError):
            content = read_json(file, path) if file.is_file() else None
            packages.append(content.get("packages") if isinstance(content, dict) else None)
    return packages


def write_error(path: Path, error: str) -> None:
    """Record the error with which a cell failed."""
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / ERROR, error.encode())


def epochs_done(path: Path) -> int:
    """Return how many epochs a folder's ``metrics.csv`` has; 0 without this file."""
    try:
        with (path / METRICS).open("rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0


def _read(file: Path, cell: Cell, hash: str, only_reads: bool = False) -> dict[str, Any]:
    """Return the content of a file that :func:`_write` has written for a cell of this hash.

    Raises:
        RunError: the file is damaged, of another version or of another cell.
    """
    remedy = f"Choose another folder, or remove {file.parent}: it is computed again."
    try:
        content = read_json(file, file.parent)
    except RunError as error:
        raise RunError(f"{error} {remedy}") from error
    format = content.get("format") if isinstance(content, dict) else None
    if format != FORMAT:
        raise RunError(f"{file} holds results of format {shown(format)}; this version reads {FORMAT}. {remedy}")
    if content.get("cell") != hash:
        code = changed_code(content, cell)
        if code and only_reads:
            remedy = (
                f"Put the old code back to read the run, or fit anew into another folder: `pyro-vae fit --config "
                f"{file.parent} --out NEW_FOLDER{' --trust' if needs_trust(cell) else ''}`."
            )
        difference = f"other code: {code}" if code else _differing(content, cell, hash)
        raise RunError(f"{file} is of a run with {difference}. {remedy}")
    if file.name == EVALUATION:
        check_evaluation(content, str(file))
    else:
        Fields.of(content, str(file)).whole("epochs")
    return content


def _differing(content: Mapping[str, Any], cell: Cell, hash: str) -> str:
    """Return in words how the cell that a file was written for differs from the cell that is wanted."""
    if "settings" not in content:
        return f"other settings ({shown(content.get('cell'))} is their hash, not {hash!r})"
    settings = listed(list(differences(content["settings"], cell.settings())))
    return f"other settings; {settings or 'its `cell` is not their hash'}"


def _read_per_datum(path: Path) -> dict[str, Tensor]:
    """Return the numbers of each test image, after checking their shapes and dtypes."""
    file = path / PER_DATUM
    again = f"Remove {path}: it is computed again."
    try:
        tensors, _ = read_tensors(file, path)
    except RunError as error:
        raise RunError(f"{error} {again}") from error
    if ELBO not in tensors:
        raise RunError(f"{file}: `{ELBO}` is missing. {again}")
    most = len(tensors[ELBO]) if tensors[ELBO].ndim else 0
    for name, values in tensors.items():
        if values.ndim != 1 or not values.is_floating_point() or not 0 < len(values) <= most:
            raise RunError(
                f"{file}: `{name}` must be a number of each test image, or of the first; got shape "
                f"{tuple(values.shape)} and {values.dtype}. {again}"
            )
    return tensors


def _require_means(evaluation: Mapping[str, Any], per_datum: Mapping[str, Tensor], path: Path) -> None:
    """Raise a RunError if a mean is not that of the images, as when one of two files is another run's."""
    for name, values in per_datum.items():
        evaluation_name, _, key = name.partition(".")
        summary = evaluation["measured"].get(evaluation_name, {}).get(key)
        if not is_estimate(summary):
            if f"{name}.standard_errors" in per_datum:
                raise RunError(
                    f"{path / EVALUATION}: {evaluation_name}: `{key}` must be a mean with its errors, since "
                    f"{PER_DATUM} has its values; got {shown(summary)}. Remove both: it is measured again."
                )
            continue
        recorded = math.nan if summary["mean"] is None else summary["mean"]
        mean = values[~values.isnan()].double().mean().item()
        same = math.isclose(recorded, mean, rel_tol=ROUNDING, abs_tol=ROUNDING)
        if not same and (math.isfinite(recorded) or math.isfinite(mean)):
            raise RunError(
                f"{path / EVALUATION}: {evaluation_name}: the mean of `{key}` is {recorded:.6g}, and that of its "
                f"values in {PER_DATUM} is {mean:.6g}: the files are not of one measurement. Remove both: it is "
                f"measured again."
            )
