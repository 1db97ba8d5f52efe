"""Files that two processes write at the same time, and folders that only one may work in."""

import errno
import os
import signal
import threading
import time

import forks
import pytest
import torch
import two_writers
from two_writers import content, pair_and_data

from pyro_vae import fit, load_run
from pyro_vae.cli import main
from pyro_vae.comparison import Comparison
from pyro_vae.errors import CheckpointError, FolderBusyError, RunError
from pyro_vae.fit.run import CHECKPOINT, METRICS
from pyro_vae.runtime.checkpoint import read_checkpoint
from pyro_vae.runtime.files import alone_in, write_bytes

PATIENCE_S = 120
"""No process here should need this long, also on a busy machine."""

WRITES = 2000
"""Of each of two processes."""


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def finish(process) -> None:
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_S)


def test_no_read_is_torn_while_two_processes_write_one_file(tmp_path):
    file, said = tmp_path / "file", [tmp_path / "failed0", tmp_path / "failed1"]
    write_bytes(file, content(0, 0))
    writers = [forks.start(two_writers.write_often, str(file), writer, WRITES, str(said[writer])) for writer in (0, 1)]
    reads, seen = 0, set()
    while any(process.is_alive() for process in writers):
        found = file.read_bytes()
        writer, _, number = found[: found.index(b";")].partition(b":")
        assert found == content(int(writer), int(number))
        seen.add(writer)
        reads += 1
    for process in writers:
        finish(process)
    assert not any(path.exists() for path in said)
    assert reads > 1000
    assert seen == {b"0", b"1"}
    assert file.read_bytes() in (content(0, WRITES - 1), content(1, WRITES - 1))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_one_at_work_writes_is_not(tmp_path):
    file, failed = tmp_path / "file", tmp_path / "failed"
    for _ in range(50):
        process = forks.start(two_writers.write_often, str(file), 0, 10**6, str(failed))
        wait_for(lambda: list(tmp_path.glob("file.*.partial")))
        kill(process)
        if list(tmp_path.glob("file.*.partial")):
            break
    assert list(tmp_path.glob("file.*.partial")), "no kill hit a write"
    other = tmp_path / "file.of.mine"
    other.write_bytes(b"mine")
    write_bytes(file, content(1, 1))
    assert file.read_bytes() == content(1, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.of.mine"}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; the one written before it is intact. Free space or choose"),
        (errno.EDQUOT, "Free space or choose"),
        (errno.EACCES, "Permission denied; the one written before it is intact. Make the folder FOLDER writable or"),
        (errno.EROFS, "Make the folder FOLDER writable or choose"),
        (errno.ENOENT, "Put the folder FOLDER back or choose"),
        (errno.EIO, "Input/output error; the one written before it is intact. Check the disk or choose"),
    ],
)
def test_a_write_that_fails_says_why_and_leaves_nothing(number, words, tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_bytes(file, b"before")

    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError) as raised:
        write_bytes(file, b"after")
    monkeypatch.undo()
    assert words.replace("FOLDER", str(tmp_path)) in str(raised.value)
    assert ("Free space" in str(raised.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"after")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "file" / "full").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"Is a directory\. Remove what"):
        write_bytes(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Folders


def test_a_folder_is_one_process_s_until_that_ends(tmp_path):
    folder = tmp_path / "run"
    process = forks.start(two_writers.hold, str(folder))
    wait_for((folder / "held").exists)
    start = time.monotonic()
    with pytest.raises(FolderBusyError, match=f"another process works in {folder}"), alone_in(folder):
        pass
    assert time.monotonic() - start < 1
    kill(process)
    with alone_in(folder), alone_in(folder):
        pass


def test_a_thread_does_not_share_the_folder_of_another(tmp_path):
    said = []

    def enter():
        try:
            with alone_in(tmp_path):
                said.append("in")
        except RunError as error:
            said.append(type(error).__name__)

    with alone_in(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(PATIENCE_S)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(PATIENCE_S)
    assert said == ["FolderBusyError", "in"]


def test_a_second_fit_into_the_same_folder_is_refused_and_the_first_is_not_disturbed(tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    first = forks.start(two_writers.fit_into, str(out), str(said))
    wait_for((out / CHECKPOINT).exists)
    for resume in (False, True):
        with pytest.raises(FolderBusyError, match=f"^another process works in {out}: "):
            fit(*pair_and_data(), epochs=3000, batch_size=20, out=out, resume=resume)
    kill(first)
    assert not said.exists()
    assert load_run(out).history


def test_a_run_is_read_in_one_state_while_it_is_fitted(tmp_path):
    """Metrics have as many epochs as the checkpoint, and the parameters are the checkpoint's."""
    out, said = tmp_path / "run", tmp_path / "said"
    process = forks.start(two_writers.fit_into, str(out), str(said), 50)
    wait_for((out / CHECKPOINT).exists)
    lengths = []
    while process.is_alive():
        run = load_run(out)
        lengths.append(len(run.history))
        assert [row["epoch"] for row in run.history] == list(range(1, len(run.history) + 1))
        assert run.config["epochs"] == 50
    finish(process)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    values = read_checkpoint(out / CHECKPOINT)[0]
    run = load_run(out)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, values[f"values.model.{name}"])


# Comparisons

COMMON = {
    "data": "mnist-5k", "latent_dim": 2, "hidden_dims": [3], "epochs": 1, "num_test": 10, "num_samples": 5,
    "elbo_samples": 2, "batch_size": 500, "compile": "off",
}  # fmt: skip


def test_two_comparisons_of_one_grid_share_a_folder(tmp_path):
    out, said = tmp_path / "out", [tmp_path / "said0", tmp_path / "said1"]
    grid = {"common": COMMON, "grid": {"seed": [0, 1, 2]}}
    for process in [forks.start(two_writers.compare_into, grid, str(out), str(path)) for path in said]:
        finish(process)
    texts = [path.read_text() for path in said]
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"3 of 3 cells finished in {out}")
    assert not Comparison.read(out).failed
    assert not list(out.rglob("*.partial"))


def test_a_comparison_of_another_grid_is_refused_while_one_runs(tmp_path):
    out, said = tmp_path / "out", [tmp_path / "said0", tmp_path / "said1"]
    grids = [{"common": {**COMMON, "epochs": epochs}, "cells": [{}]} for epochs in (30, 1)]
    first = forks.start(two_writers.compare_into, grids[0], str(out), str(said[0]))
    wait_for(lambda: list(out.glob(f"cells/*/{METRICS}")))
    os.kill(first.pid, signal.SIGSTOP)
    finish(forks.start(two_writers.compare_into, grids[1], str(out), str(said[1])))
    assert said[1].read_text().startswith(f"refused: another process computes another grid in {out}: wait until")
    os.kill(first.pid, signal.SIGCONT)
    finish(first)
    assert said[0].read_text().startswith("1 of 1 cells finished")


def test_the_command_line_does_not_wait_for_a_folder(tmp_path, capsys):
    folder = tmp_path / "run"
    process = forks.start(two_writers.hold, str(folder))
    wait_for((folder / "held").exists)
    (folder / "held").unlink()
    flags = ["--data", "mnist-5k", "--latent_dim", "2", "--hidden_dims", "3", "--epochs", "1"]
    assert main(["fit", "--quiet", *flags, "--out", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyro-vae: error: another process works in {folder}: wait until it has ended")
    # Which has written nothing yet, and whose lock must not be taken away.
    assert (folder / ".lock").is_file()
    kill(process)
