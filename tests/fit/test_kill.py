"""A run killed at any instant, also while it writes, resumes and ends as if it had never been killed."""

import os
import random
import signal
import time
from pathlib import Path

import forks
import killed_run
import pytest
import torch
from killed_run import EPOCHS

from pyro_vae.fit.run import CHECKPOINT, METRICS, read_history
from pyro_vae.runtime.checkpoint import read_checkpoint

PATIENCE_S = 120
"""No process here should need this long, also on a busy machine."""


def finish(process) -> int:
    process.join(PATIENCE_S)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def wait_for(condition, process) -> bool:
    """Poll until the condition holds (True) or the process has ended (False)."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.exitcode is not None:
            return False
        assert time.monotonic() < deadline, "the process hangs"
        time.sleep(0.0005)
    return True


def kill(process) -> bool:
    """kill -9; returns whether it came before the process ended by itself."""
    os.kill(process.pid, signal.SIGKILL)
    return finish(process) == -signal.SIGKILL


def modified(path: Path) -> float:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_some_time_after_an_epoch(out: Path, compile: str, delay: float) -> bool:
    before = modified(out / METRICS)
    process = forks.start(killed_run.train, out, compile)
    wait_for(lambda: modified(out / METRICS) != before, process)
    time.sleep(delay)
    return kill(process)


def kill_while_writing(out: Path, compile: str) -> bool:
    """Kill as soon as a checkpoint's partial file is seen; True if it is still lying there, cut short."""
    before = leftovers(out)
    process = forks.start(killed_run.train, out, compile)
    seen = wait_for(lambda: leftovers(out) - before, process)
    killed = kill(process)
    return seen and killed and bool(leftovers(out) - before)


def leftovers(out: Path) -> set[Path]:
    """The partial files of checkpoints."""
    return set((out / CHECKPOINT).parent.glob("last.safetensors.*.partial"))


@pytest.mark.parametrize("compile", ["trace", "off"])
def test_a_killed_run_ends_bit_identical_to_one_never_killed(compile, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = forks.start(killed_run.train, whole, compile)
    delays = random.Random(0)
    instants = sum(kill_some_time_after_an_epoch(killed, compile, delays.uniform(0, 0.15)) for _ in range(2))
    caught = 0
    for _ in range(5):
        caught += kill_while_writing(killed, compile)
        if caught == 2:
            break
    # The leftover of the last kill lies there and must disturb nobody.
    assert caught >= 1, "no kill hit a write: make the state larger"
    epochs_at_kill = read_checkpoint(killed / CHECKPOINT)[1]["epoch"] if (killed / CHECKPOINT).exists() else 0
    instants += sum(kill_some_time_after_an_epoch(killed, compile, delays.uniform(0, 0.15)) for _ in range(2))
    assert instants >= 3
    assert epochs_at_kill < EPOCHS
    assert finish(forks.start(killed_run.train, killed, compile)) == 0
    assert finish(reference) == 0

    (tensors, state), (tensors_killed, state_killed) = (read_checkpoint(run / CHECKPOINT) for run in (whole, killed))
    assert state == state_killed
    assert state["best_epoch"] < EPOCHS, "the best parameters are to differ from the last ones"
    assert state["scheduler"]["last_epoch"] == EPOCHS
    assert tensors.keys() == tensors_killed.keys()
    assert {"values", "best", "optimizer", "rng"} == {name.split(".")[0] for name in tensors}
    for name, value in tensors.items():
        assert torch.equal(value, tensors_killed[name]), name
    for row, row_killed in zip(read_history(whole, EPOCHS), read_history(killed, EPOCHS), strict=True):
        assert {**row, "seconds": 0} == {**row_killed, "seconds": 0}
    assert [row["learning_rate"] for row in read_history(whole, EPOCHS)] == [0.001] * 4 + [0.002] * 5 + [0.008] * 5
    assert not list(killed.rglob("*.partial"))


def test_a_disk_that_refuses_a_write_leaves_the_checkpoint_before_it(tmp_path):
    """The limit lets the small first checkpoints pass and stops the first one that also holds best parameters."""
    out, message = tmp_path / "run", tmp_path / "message"
    # KL warm-up of three epochs: no best parameters before that, so the fourth file is larger by a third.
    assert finish(forks.start(killed_run.train, out, "off", 1)) == 0
    small = (out / CHECKPOINT).stat().st_size
    before = (out / CHECKPOINT).read_bytes()
    process = forks.start(killed_run.train_on_a_full_disk, str(out), small + 100_000, str(message))
    assert finish(process) == 0
    assert message.read_text() == (
        f"could not write {out / CHECKPOINT}: File too large; the one written before it is intact. Free space or "
        f"choose another folder with out=..., then go on with resume=True."
    )
    assert read_checkpoint(out / CHECKPOINT)[1]["epoch"] == 2
    assert (out / CHECKPOINT).read_bytes() != before
    assert not list(out.rglob("*.partial"))
    assert finish(forks.start(killed_run.train, out, "off", 4)) == 0
    assert read_checkpoint(out / CHECKPOINT)[1]["epoch"] == 4
