"""A fitted pair, and the folder it lives in."""

import contextlib
import csv
import io
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
import yaml
from torch import Tensor

from pyro_vae.errors import RunError
from pyro_vae.fit.describe import build_pair, describe_pair, is_buildable, not_described, structure
from pyro_vae.fit.parameters import STORE, Parameters, owners_of
from pyro_vae.fit.rebuilt import differing_part
from pyro_vae.protocols import Program
from pyro_vae.runtime.bounded import Bounded, require_sizes
from pyro_vae.runtime.checkpoint import FORMAT, read_checkpoint
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.reading import Fields, read_table, read_yaml, shown
from pyro_vae.runtime.trust import is_trusted

CONFIG_BYTES = 2**18
"""The most bytes of a configuration, which has some thousands; YAML reads a megabyte in ten seconds."""

CONFIG, METRICS, CHECKPOINT = "config.yaml", "metrics.csv", "checkpoint/last.safetensors"

COLUMNS = ("epoch", "train_bound_nats", "valid_bound_nats", "kl_weight", "learning_rate", "seconds")
"""The columns of ``metrics.csv``."""

PARTS = ("values", "best", "optimizer", "rng")
"""What the name of a checkpoint's tensor starts with."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that a pair may have."""

Row = dict[str, float]


@dataclass(frozen=True, eq=False)
class Run:
    """A fitted pair, its history and its folder.

    The history has one row an epoch: ``epoch`` (from 1), ``train_bound_nats`` and ``valid_bound_nats`` (the
    objective's bound in nats per datum; training's with the KL weight of that epoch, validation's with 1, and
    NaN without validation data), ``kl_weight``, ``learning_rate``, ``seconds``.
    """

    model: Program
    guide: Program
    history: list[Row]
    data: dict[str, Any]
    """The data that the pair was fitted to: name, sizes, content hash."""
    config: dict[str, Any] = field(repr=False)
    path: Path | None = None
    best_epoch: int | None = None
    """The epoch whose parameters the pair holds, where early stopping chose one; else None."""
    compiled: str = "off"
    """How the last steps really ran: "off", "trace" or "inductor"."""

    def __str__(self) -> str:
        where = f" in {self.path}" if self.path else ""
        if not self.history:
            return f"run of 0 epochs on {self.data['name']}{where}"
        best = f", best epoch {self.best_epoch}" if self.best_epoch else ""
        epochs = f"{len(self.history)} epoch{'s' if len(self.history) > 1 else ''}"
        return f"run of {epochs} on {self.data['name']}{where}: {bounds(self.history[-1])}{best}"


def bounds(row: Row) -> str:
    """Return a row's bounds in words; validation's where there is one.

    >>> bounds({"train_bound_nats": -98.308, "valid_bound_nats": -99.021})
    'train -98.31, valid -99.02 nats/datum'
    >>> bounds({"train_bound_nats": -98.308, "valid_bound_nats": math.nan})
    'train -98.31 nats/datum'
    """
    names = [name for name in ("train", "valid") if not math.isnan(row[f"{name}_bound_nats"])]
    return ", ".join(f"{name} {row[f'{name}_bound_nats']:.2f}" for name in names) + " nats/datum"


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions and the machine that a result came from."""
    from pyro_vae.version import __version__

    return {
        "pyro_vae": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a run's configuration."""
    text = yaml.safe_dump({"format": FORMAT, **config}, sort_keys=False, allow_unicode=True)
    write_bytes(path / CONFIG, text.encode())


def read_config(path: Path) -> dict[str, Any]:
    """Return a run's configuration, whose fields are of the kinds that they must be.

    Raises:
        RunError: the folder or the file is missing, unreadable, of another version, or a field is missing or odd.
    """
    file = path / CONFIG
    if not path.is_dir():
        raise RunError(f"no run folder at {path}.")
    if not file.is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}.")
    config = read_yaml(file, path, CONFIG_BYTES)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        written = config.get("format") if isinstance(config, dict) else None
        raise RunError(f"{path} is a run folder of format {shown(written)}; this version reads {FORMAT}.")
    fields = Fields.of(config, str(file))
    data = fields.fields("data")
    data.text("name")
    if data.has("content_hash"):
        data.text("content_hash")
    fields.text("dtype", choices=DTYPES)
    fields.whole("epochs")
    for name in ("model", "guide"):
        fields.fields(name)
    for name in ("recipe", "environment", "structure"):
        if fields.has(name):
            fields.fields(name)
    return config


def write_history(path: Path, history: list[Row]) -> None:
    """Write ``metrics.csv``: one row an epoch, numbers exact."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]) if history else ["epoch"])
    writer.writeheader()
    writer.writerows(history)
    write_bytes(path / METRICS, text.getvalue().encode())


def read_history(path: Path, epochs: int) -> list[Row]:
    """Return the first ``epochs`` rows of ``metrics.csv``.

    Raises:
        RunError: there are fewer, or one is unreadable.
    """
    file = path / METRICS
    rows = read_table(file, COLUMNS, epochs, path)
    if len(rows) < epochs:
        raise RunError(f"{file} has {len(rows)} rows; the checkpoint is of epoch {epochs}.")
    for number, row in enumerate(rows, 1):
        if row["epoch"] != number:
            raise RunError(f"{file}: `epoch` of row {number} must be {number}; got {row['epoch']:g}.")
        # Epochs are counted in whole numbers.
        row["epoch"] = number
    return rows


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, Any], list[Row]]:
    """Return configuration, tensors, state and history of one moment, also while a process fits in the folder.

    Metrics are written before the checkpoint, so that those read after it have its epochs.
    """
    while True:
        config = read_config(path)
        tensors, state = read_fitted(path)
        history = read_history(path, state["epoch"])
        # As text: a NaN is not equal to itself.
        if repr(read_config(path)) == repr(config):
            return config, tensors, state, history


def read_fitted(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors of a run's checkpoint, by :data:`PARTS` and name, and its state.

    Raises:
        RunError: as for :func:`read_checkpoint`; or the checkpoint is not a run's.
    """
    file = path / CHECKPOINT
    tensors, state = read_checkpoint(file, path)
    fields = Fields.of(state, str(file))
    fields.whole("epoch")
    fields.text("compiled")
    if fields.has("best_epoch"):
        fields.whole("best_epoch", least=1)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        if part not in PARTS or not key:
            raise RunError(f"{file}: it holds {shown(name)}, which is no part of a run.")
        parts[part][key] = tensor
    return parts, state


def load_run(
    path: str | Path,
    model: Program | None = None,
    guide: Program | None = None,
    *,
    trust: bool = False,
    make: Callable[[], tuple[Program, Program]] | None = None,
    always_make: bool = False,
) -> Run:
    """Return the model, guide, data description and history of a run, in evaluation mode.

    Args:
        path: the run folder.
        model: the model to fill, built as it was for ``fit``; needed only where the message says so.
        guide: the same for the guide.
        trust: import and call the classes that the folder names, whosever they are.
        make: makes the pair as it was made for ``fit``; called where ``config.yaml`` does not describe it whole, or
            names classes that are not trusted. What is made must be what ``config.yaml`` describes.
        always_make: call ``make`` also where ``config.yaml`` describes the pair, so that the two are compared.

    Raises:
        RunError: the folder is missing, of another version or damaged, names a class that is not trusted, or the pair
            does not fit it.
    """
    path = Path(path)
    config, fitted, state, history = _read(path)
    values, best = fitted["values"], fitted["best"]
    in_store = [name for name in values if name.startswith(STORE)]
    given = {name: program for name, program in (("model", model), ("guide", guide)) if program is not None}
    rebuilt = [name for name in ("model", "guide") if name not in given]
    described = not in_store and all(is_buildable(config[name], trust) for name in rebuilt)
    if make is None or given or (described and not always_make):
        filled = [*values.values(), *best.values()]
        with contextlib.nullcontext() if trust else Bounded(filled, str(path)):
            for name in [] if trust else rebuilt:
                require_sizes(config[name], sum(t.numel() for t in filled), f"{path}: {name}")
            model, guide = build_pair(config, str(path), trust, given).values()
    else:
        model, guide = _as_described(make, config, path)
    owners = owners_of(model, guide)
    _require_structure(config.get("structure"), structure(owners), rebuilt, path)
    dtype = getattr(torch, config["dtype"])
    floating = {t.dtype for t in (*values.values(), *best.values()) if t.is_floating_point()}
    if floating and dtype not in floating:
        dtypes = ", ".join(sorted(str(each).removeprefix("torch.") for each in floating))
        raise RunError(f"{path / CONFIG}: `dtype` is {config['dtype']}, and the checkpoint has {dtypes}.")
    for module in owners.values():
        module.to(dtype).eval()
    store = {}
    for name in in_store:
        key = name.removeprefix(STORE)
        if key not in pyro.get_param_store():
            raise RunError(
                f"{path}: parameter {key!r} lives in Pyro's parameter store, not in the model or guide. Run both "
                f"once, so that the store has it, then load again; {tuple(values[name].shape)} is its shape."
            )
        store[key] = pyro.get_param_store()[key].unconstrained()
    Parameters(owners, store).load_state(best or values, str(path))
    best_epoch = state["best_epoch"] if best else None
    return Run(model, guide, history, config["data"], config, path, best_epoch, state["compiled"])


def _as_described(
    make: Callable[[], tuple[Program, Program]], config: Mapping[str, Any], path: Path
) -> tuple[Program, Program]:
    """Make the pair, and compare it with the description of the pair that was fitted.

    Raises:
        RunError: a part of the package was changed by hand before it was fitted, or another pair is made.
    """
    for name in ("model", "guide"):
        # A part of the package that its own arguments do not build again is not what its settings make either.
        if "why" in config[name] and is_trusted(str(config[name].get("class"))):
            raise not_described(config[name], f"{path}: {name}")
    pair = make()
    for name, made in describe_pair(*pair).items():
        recorded = config[name]
        same = recorded == made if is_buildable(recorded) else recorded.get("class") == made["class"]
        if not same:
            raise RunError(
                f"{path}: {name} cannot be built: `{name}` in {CONFIG} describes another {name} than `recipe` makes. "
                f"Restore the file, or pass the fitted pair: load_run(path, model=..., guide=...)."
            )
    return pair


def _require_structure(
    recorded: Mapping[str, str] | None, at_hand: Mapping[str, str], rebuilt: Sequence[str], path: Path
) -> None:
    """Refuse a model or guide that was built again with other modules than were fitted.

    Args:
        recorded: structure of the pair that was fitted; None in the folder of an earlier version.
        at_hand: structure of the pair at hand.
        rebuilt: which of the two was built again; what the user has made, the user answers for.
        path: the run folder, for the message.

    Raises:
        RunError: names the first module that differs.
    """
    for which in rebuilt:
        # A guide that is a part of the model's prior, too, is named as a part of the model.
        if recorded is not None and which in recorded and which in at_hand:
            fitted, built = (
                {name: part for name, part in parts.items() if name.partition(".")[0].partition("_")[0] == which}
                for parts in (recorded, at_hand)
            )
            difference = differing_part(fitted, built)
            if difference is not None:
                raise RunError(
                    f"{path}: {which} cannot be built from its description: {difference}. Build it yourself and pass "
                    f"it: load_run(path, {which}=...)."
                )
