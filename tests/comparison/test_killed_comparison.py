"""A comparison killed at any instant goes on: no cell is lost, none is computed twice, and the numbers are the same."""

import os
import random
import signal
import time
from collections import Counter

import pandas as pd
import psutil
import pytest
from tiny_grids import COMMON, events, numbers, start

from pyro_vae.comparison import Comparison, Grid, compare
from pyro_vae.comparison.results import epochs_done
from pyro_vae.comparison.task import folder_of
from pyro_vae.runtime.files import alone_in

GRID = {
    "common": {**COMMON, "epochs": 12},
    "grid": {"guide": ["mean_field", "iaf(num_flows=1)", "full_rank"], "seed": [0, 1]},
}

PATIENCE_S = 300
"""No process here should need this long, also on a busy machine."""


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the process hangs"
        time.sleep(0.002)


def kill_while_it_works(out, epochs: int, seconds: float, jobs: int) -> bool:
    """Kill the main process some time after more epochs were done; returns whether it was still there."""
    before = all_epochs(out)
    process = start(GRID, out, jobs=jobs, threads=1)
    wait_for(lambda: all_epochs(out) >= before + epochs, process)
    time.sleep(seconds)
    alive = process.poll() is None
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    return alive


def all_epochs(out) -> int:
    return sum(epochs_done(folder_of(out, cell)) for cell in Grid.of(GRID).cells)


def assert_whole(out, undisturbed) -> None:
    process = start(GRID, out, jobs=2, threads=1)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    found = Comparison.read(out)
    assert not found.failed
    pd.testing.assert_frame_equal(numbers(found.table), numbers(undisturbed.table), check_exact=True)
    finished = Counter(line["cell"] for line in events(out) if line["event"] == "finished")
    assert finished == {cell.hash: 1 for cell in Grid.of(GRID).cells}
    assert not list(out.rglob("*.partial"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return compare(GRID, tmp_path_factory.mktemp("undisturbed"), threads=1)


@pytest.mark.slow
def test_kill_9_of_the_main_process(undisturbed, tmp_path):
    out = tmp_path / "out"
    assert kill_while_it_works(out, 3, 0, jobs=2)
    assert_whole(out, undisturbed)
    assert "resumed" in {line["event"] for line in events(out)}


@pytest.mark.slow
def test_kill_9_of_the_main_process_ten_times_in_a_row(undisturbed, tmp_path):
    out, delays = tmp_path / "out", random.Random(0)
    killed = sum(kill_while_it_works(out, 1, delays.uniform(0, 0.3), 1 + number % 2) for number in range(10))
    assert killed >= 6, "most kills came too late: make the cells longer"
    assert_whole(out, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_no_cell_with_it(undisturbed, tmp_path):
    out = tmp_path / "out"
    process = start(GRID, out, jobs=2, threads=1)
    wait_for(lambda: len(events(out)) >= 2, process)
    worker = events(out)[-1]["pid"]
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert_whole(out, undisturbed)


def test_workers_end_with_their_parent(tmp_path):
    out = tmp_path / "out"
    process = start(GRID, out, jobs=2, threads=1)
    wait_for(lambda: len(events(out)) >= 2, process)
    workers = {line["pid"] for line in events(out)} - {process.pid}
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def test_who_works_in_a_folder_is_alone_there(tmp_path):
    """A second process waits, and then finds the cell finished."""
    grid = {"common": {**COMMON, "epochs": 1}, "cells": [{}]}
    (cell,) = Grid.of(grid).cells
    out = tmp_path / "out"
    with alone_in(folder_of(out, cell)):
        process = start(grid, out, threads=1)
        wait_for(lambda: (out / "grid.yaml").exists(), process)
        time.sleep(1)
        assert process.poll() is None
        assert events(out) == []
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert [line["event"] for line in events(out)] == ["started", "finished"]
