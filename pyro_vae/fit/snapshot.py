"""Write a training into its run folder, and read it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import RunError
from pyro_vae.fit.describe import is_buildable
from pyro_vae.fit.optimizer_state import load_optimizer_state, optimizer_state, plain, restored
from pyro_vae.fit.run import CHECKPOINT, CONFIG, read_config, read_fitted, read_history, write_config, write_history
from pyro_vae.fit.same_data import differing_data
from pyro_vae.fit.steps.auto_step import AutoStep
from pyro_vae.fit.training import Training
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checkpoint import write_checkpoint
from pyro_vae.runtime.differences import differences, listed

FREE_ON_RESUME = ("epochs", "environment")
"""Settings that may differ when a run is resumed, as the number of epochs does in a longer run."""


def open_folder(folder: Path, config: dict[str, Any], resume: bool) -> bool:
    """Make the run folder, or check the one that is there, and return whether it has a checkpoint to resume.

    Raises:
        RunError: it holds a run and ``resume`` is off, or one with other settings, or it cannot be made.
    """
    checkpoint = folder / CHECKPOINT
    if (folder / CONFIG).exists():
        if not resume:
            raise RunError(
                f"{folder} already holds a run: {argument('resume', True)} goes on with it, or choose another "
                f"{argument('out')}."
            )
        stored = read_config(folder)
        differing = _differing(stored, config)
        if differing:
            raise RunError(f"{folder} cannot be resumed with other settings; {listed(differing)}.")
        done = read_fitted(folder)[1]["epoch"] if config["epochs"] < stored["epochs"] and checkpoint.is_file() else 0
        if config["epochs"] < done:
            raise RunError(
                f"{folder} has trained {done} epochs already, and {argument('epochs')} is {config['epochs']}: give "
                f"{done} or more, or choose another {argument('out')}."
            )
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot make the run folder {folder}: {error.strerror}. Choose another {argument('out')}."
        ) from error
    write_config(folder, config)
    return checkpoint.exists()


def _differing(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings by which configurations differ, but for those that an earlier version did not store.

    The structure of a pair follows from its description, and is named only where that is the same.
    """
    by_setting: dict[str, list[str]] = {}
    for key in now.keys() & stored.keys() - set(FREE_ON_RESUME):
        before, after = stored[key], now[key]
        if key in ("model", "guide") and not (is_buildable(before) and is_buildable(after)):
            # Which of the two could be built again may have changed with the version.
            before, after = before.get("class"), after.get("class")
        by_setting[key] = differing_data(before, after, key) if key == "data" else list(differences(before, after, key))
    if by_setting.get("model") or by_setting.get("guide"):
        by_setting["structure"] = []
    return [difference for key in now for difference in by_setting.get(key, ())]


def save(training: Training, folder: Path) -> None:
    """Write metrics and checkpoint, in this order: metrics may be ahead of the checkpoint, never behind.

    Raises:
        CheckpointError: the disk refuses; the checkpoint before is intact.
    """
    write_history(folder, training.history)
    moments, rest = optimizer_state(training.optimizer)
    tensors = {f"values.{name}": value for name, value in training.parameters.state().items()}
    tensors |= {f"best.{name}": value for name, value in training.best.items()}
    tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if training.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(training.device)
    if training.batches.generator is not None:
        tensors["rng.loader"] = training.batches.generator.get_state()
    state = {
        "compiled": training.step.level,
        "auto": training.step.state() if isinstance(training.step, AutoStep) else None,
        "epoch": len(training.history),
        "best_epoch": training.best_epoch if training.best else None,
        "optimizer": rest,
        "scheduler": None if training.schedule is None else plain(training.schedule.state_dict()),
    }
    write_checkpoint(folder / CHECKPOINT, tensors, state)


def restore(training: Training, folder: Path) -> None:
    """Undo :func:`save`.

    Raises:
        RunError: the checkpoint is damaged, of another version, or of another pair.
    """
    parts, state = read_fitted(folder)
    try:
        _put_back(training, folder, parts, state)
    except RunError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder / CHECKPOINT} does not fit the optimizer or the schedule: {type(error).__name__}: "
            f"{' '.join(str(error).split())}."
        ) from error


def _put_back(
    training: Training, folder: Path, parts: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]
) -> None:
    training.parameters.load_state(parts["values"], str(folder))
    load_optimizer_state(training.optimizer, parts["optimizer"], state["optimizer"])
    if training.schedule is not None:
        training.schedule.load_state_dict(restored(state["scheduler"]))
    torch.set_rng_state(parts["rng"]["cpu"])
    if training.device.type == "cuda":
        torch.cuda.set_rng_state(parts["rng"]["cuda"], training.device)
    if training.batches.generator is not None:
        training.batches.generator.set_state(parts["rng"]["loader"])
    if isinstance(training.step, AutoStep):
        training.step.resume(state["auto"], state["epoch"] * (training.batches.steps or 0))
    training.history = read_history(folder, state["epoch"])
    training.best = parts["best"]
