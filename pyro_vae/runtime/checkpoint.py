"""Write and read a checkpoint: one safetensors file with a content hash, renamed into place when it is complete."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

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
        RunError: the file is missing, damaged, or of another version.
    """
    if inside is not None:
        require_inside(path, inside)
    if not path.is_file():
        raise RunError(
            f"no checkpoint at {path}: the run was stopped before its first one. Start it again, or wait if it is "
            f"still running."
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
