"""One checkpoint file: safetensors with a content hash, written to the side and renamed into place."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.errors import RunError
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.reading import Fields, parse_json, read_tensors, require_inside

FORMAT = 2
"""Raised when a run folder's layout changes so that older ones cannot be read."""


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors (on the CPU, contiguous) and a JSON-able state.

    Raises:
        CheckpointError: the disk refuses; the file that was there is untouched.
    """
    text = json.dumps(state)
    metadata = {"state": text, "format": str(FORMAT), "sha256": _digest(tensors, text)}
    write_bytes(path, save(dict(tensors), metadata))


def read_checkpoint(path: Path, inside: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the state of a checkpoint, without executing anything it contains.

    Args:
        path: the file.
        inside: the run folder, which it must not lead out of.

    Raises:
        RunError: there is none, it is damaged, or it is of another version.
    """
    if inside is not None:
        require_inside(path, inside)
    if not path.is_file():
        raise RunError(
            f"no checkpoint at {path}: the run was stopped before its first one. Start it again, or wait where it is "
            f"still at work."
        )
    damaged = f"the checkpoint {path} is damaged"
    remedy = "Restore it from a copy, or start the run again in another folder."
    try:
        tensors, metadata = read_tensors(path)
    except RunError as error:
        raise RunError(f"{damaged}: {str(error).partition('cannot be read: ')[2]} {remedy}") from error
    if metadata.get("format") != str(FORMAT):
        raise RunError(f"{path} is a checkpoint of format {metadata.get('format')}; this version reads {FORMAT}.")
    state = metadata.get("state", "")
    if metadata.get("sha256") != _digest(tensors, state):
        raise RunError(f"{damaged}: its content does not match its hash. {remedy}")
    return tensors, dict(Fields.of(parse_json(state, str(path)), str(path)).values)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named ``INDEX.KEY``, and the JSON-able rest."""
    full = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, entries in full["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{index}.{key}"] = value
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    groups = [{k: float(v) if isinstance(v, Tensor) else v for k, v in g.items()} for g in full["param_groups"]]
    return tensors, {"groups": groups, "rest": rest}


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Undo :func:`optimizer_state`."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**state["rest"], **tensors}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else value
    groups = [dict(group) for group in state["groups"]]
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        # A learning rate that is a tensor is rounded like one.
        group |= {key: value.new_tensor(group[key]) for key, value in own.items() if isinstance(value, Tensor)}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def plain(value: Any) -> Any:
    """Return a scheduler's state in JSON's terms; dicts with keys other than strings become lists of pairs.

    >>> restored(plain({"milestones": {30: 1}, "last_epoch": 3}))
    {'milestones': {30: 1}, 'last_epoch': 3}
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: plain(item) for key, item in value.items()}
        return {"__pairs__": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def restored(value: Any) -> Any:
    """Undo :func:`plain`."""
    if isinstance(value, dict):
        if value.keys() == {"__pairs__"}:
            return {restored(key): restored(item) for key, item in value["__pairs__"]}
        return {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value
