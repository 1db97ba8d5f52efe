"""A grid on a real Dask cluster on loopback: a worker killed in the middle of a cell costs nothing but its time."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec

import pandas as pd
import pytest
from tiny_grids import COMMON, events, numbers, start

from pyro_vae.comparison import Comparison, Grid, compare
from pyro_vae.comparison.clusters import on_dask, on_ray
from pyro_vae.comparison.task import Task
from pyro_vae.errors import ClusterError

GRID = {"common": {**COMMON, "epochs": 12}, "grid": {"guide": ["mean_field", "full_rank"], "seed": [0, 1]}}

PATIENCE_S = 300
"""No process here should need this long, also on a busy machine."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Cluster:
    """A scheduler and two workers of one thread, each a process of its own with a nanny that starts it anew."""

    def __init__(self, folder, threads: int = 1, workers: int = 2) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._folder = folder
        options = os.environ | {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        port = self.address.rpartition(":")[2]
        self._processes = [self._start("scheduler", options, "--host", "127.0.0.1", "--port", port)]
        for _ in range(workers):
            own = ("--nthreads", str(threads), "--local-directory", str(folder), "--memory-limit", "0")
            self._processes.append(self._start("worker", options, self.address, *own, "--no-dashboard"))

    def _start(self, what, environment, *arguments) -> subprocess.Popen:
        command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.dask_{what}", *arguments]
        with (self._folder / f"{what}.log").open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def lose_scheduler(self) -> None:
        os.killpg(self._processes[0].pid, signal.SIGKILL)

    def close(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_cell_costs_no_cell(cluster, tmp_path):
    serial = compare(GRID, tmp_path / "serial", threads=1)
    out = tmp_path / "out"
    process = start(GRID, out, backend="dask", scheduler=cluster.address, threads=1)
    deadline = time.monotonic() + PATIENCE_S
    while not any(path.stat().st_size > 100 for path in out.rglob("metrics.csv")) and process.poll() is None:
        assert time.monotonic() < deadline, "no cell was begun"
        time.sleep(0.005)
    victim = events(out)[0]
    assert victim["pid"] != process.pid
    os.kill(victim["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    spread = Comparison.read(out)
    assert not spread.failed
    pd.testing.assert_frame_equal(numbers(spread.table), numbers(serial.table), check_exact=True)
    log = events(out)
    finished = Counter(line["cell"] for line in log if line["event"] == "finished")
    assert finished == {cell.hash: 1 for cell in Grid.of(GRID).cells}
    own = [line["event"] for line in log if line["cell"] == victim["cell"]]
    assert own in (["started", "resumed", "finished"], ["started", "started", "finished"])
    assert len({line["pid"] for line in log}) >= 2


def dying_of(deadly: Task):
    """What kills its process for one task, and takes a moment for others."""

    # Workers know no test files: what is defined here is sent to them whole.
    def run(task: Task) -> str | None:
        if task.cell == deadly.cell:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        return None

    return run


@pytest.mark.slow
def test_a_cell_whose_worker_dies_each_time_is_given_up_and_no_other(tmp_path):
    """On one worker, to which the others have been sent as well, each time that it dies."""
    cluster = Cluster(tmp_path, workers=1)
    tasks = [Task(cell, tmp_path) for cell in Grid.of(GRID).cells]
    deadly = tasks[0]
    try:
        outcomes = dict(on_dask(tasks, dying_of(deadly), cluster.address))
    finally:
        cluster.close()
    said = "its worker died 4 times with no other cell: out of memory, or a crash"
    assert outcomes == {task: said if task == deadly else None for task in tasks}
    assert (deadly.path / "error.txt").read_text().startswith(said)


def test_a_scheduler_that_goes_away_is_named_with_what_is_left(cluster, tmp_path):
    tasks = [Task(cell, tmp_path) for cell in Grid.of(GRID).cells]
    first = tasks[0].cell

    def waits_but_for_the_first(task: Task) -> str | None:
        time.sleep(0 if task.cell == first else 600)
        return None

    outcomes = on_dask(tasks, waits_but_for_the_first, cluster.address)
    assert next(outcomes) == (tasks[0], None)
    cluster.lose_scheduler()
    with pytest.raises(ClusterError, match="3 of 4 cells left"):
        list(outcomes)


def test_a_scheduler_without_workers_is_named(tmp_path):
    alone = Cluster(tmp_path, workers=0)
    tasks = [Task(cell, tmp_path) for cell in Grid.of(GRID).cells]
    try:
        with pytest.raises(ClusterError, match="has no workers; waited 8 s"):
            list(on_dask(tasks, str, alone.address, connect_seconds=8.0))
    finally:
        alone.close()


@pytest.mark.skipif(find_spec("ray") is None, reason="NOT CHECKED: ray is not installed")
def test_ray_yields_cells_as_they_end_and_gives_up_one_whose_worker_dies_each_time(tmp_path):
    tasks = [Task(cell, tmp_path) for cell in Grid.of(GRID).cells]
    outcomes = list(on_ray(tasks, dying_of(tasks[1]), None))
    said = "its worker died each time (WorkerCrashedError): out of memory, or a crash"
    assert outcomes[-1] == (tasks[1], said), "the others do not wait for it"
    assert dict(outcomes) == {task: said if task == tasks[1] else None for task in tasks}


def test_workers_with_several_threads_are_refused(tmp_path):
    cluster = Cluster(tmp_path, threads=2, workers=1)
    try:
        process = start(GRID, tmp_path / "out", backend="dask", scheduler=cluster.address)
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        cluster.close()
    assert process.returncode != 0
    refusal = r"ClusterError: workers of tcp://.* run several tasks in one process .* `dask worker --nthreads 1`"
    assert re.search(refusal, said)
    assert events(tmp_path / "out") == []


def test_a_scheduler_that_does_not_answer_is_named_with_the_time_it_had(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=rf"{address}; waited 1 s"):
        list(on_dask([Task(cell, tmp_path) for cell in Grid.of(GRID).cells], str, address, connect_seconds=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "spark"}, "backend must be one of"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"backend": "dask"}, "'dask' needs .*scheduler='tcp:"),
        ({"scheduler": "tcp://x:1"}, "'loky' takes no scheduler"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(GRID, tmp_path, **options)
