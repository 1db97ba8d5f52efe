"""Run cells in this process, in processes of this machine through joblib, or by a cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from pyro_vae.comparison.clusters import on_dask, on_ray
from pyro_vae.comparison.results import write_error
from pyro_vae.comparison.task import Outcome, Task, Worker, work
from pyro_vae.runtime.arguments import argument

LOCAL = ("serial", "loky")
"""Backends that run on this machine and see its files."""

CLUSTERS: dict[str, Callable[[Sequence[Task], Worker, str | None], Iterator[Outcome]]] = {
    "dask": on_dask, "ray": on_ray,
}  # fmt: skip

KILLED = "its process was killed: out of memory, or a crash"


def run_tasks(
    tasks: Sequence[Task], *, jobs: int = 1, threads: int | None = None, backend: str = "loky",
    scheduler: str | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Run tasks and yield each as it ends.

    Args:
        tasks: in the order in which they are started.
        jobs: processes on this machine; 1 runs all in this process.
        threads: of each process; by default those of this process divided by the number of jobs.
        backend: "serial", "loky", "dask" or "ray".
        scheduler: address of the cluster.

    Raises:
        ClusterError: the scheduler cannot be reached or goes away, or its workers run several tasks at once.
    """
    if backend in CLUSTERS:
        yield from CLUSTERS[backend](tasks, partial(work, threads=threads), scheduler)
        return
    threads = max(1, torch.get_num_threads() // jobs) if threads is None else threads
    worker = partial(work, threads=threads, parent=os.getpid())
    if backend == "serial" or jobs == 1:
        for task in tasks:
            yield task, worker(task)
    else:
        yield from _in_processes(tasks, worker, jobs)


def check_options(jobs: int, backend: str, scheduler: str | None) -> None:
    """Raise a ValueError for an unknown backend, and for options that the backend does not take."""
    if backend not in (*LOCAL, *CLUSTERS):
        known = ", ".join([*LOCAL, *CLUSTERS])
        raise ValueError(f"compare: {argument('backend')} must be one of {known}; got {backend!r}.")
    if jobs < 1:
        raise ValueError(f"compare: {argument('jobs')} must be at least 1; got {jobs}.")
    if backend in LOCAL and scheduler is not None:
        raise ValueError(
            f"compare: {argument('backend')} {backend!r} takes no {argument('scheduler')}; got {scheduler!r}."
        )
    if backend == "dask" and scheduler is None:
        raise ValueError(
            f"compare: {argument('backend')} 'dask' needs the address of a scheduler, as "
            f"{argument('scheduler', 'tcp://HOST:8786')}."
        )


def _in_processes(tasks: Sequence[Task], worker: Worker, jobs: int) -> Iterator[Outcome]:
    """Yield tasks as they end; if a process was killed, go on with the remaining tasks one at a time."""
    remaining = list(tasks)
    with contextlib.suppress(BrokenProcessPool):
        # In a pool of one, joblib would run the task in this process.
        for task, error in _parallel(tasks, worker, max(2, min(jobs, len(tasks)))):
            remaining.remove(task)
            yield task, error
    for task in remaining:
        try:
            yield from _parallel([task], worker, 2)
        except BrokenProcessPool:
            write_error(task.path, KILLED)
            yield task, KILLED


def _parallel(tasks: Sequence[Task], worker: Worker, num_processes: int) -> Iterator[Outcome]:
    from joblib import Parallel, delayed

    pool = Parallel(
        batch_size=1, pre_dispatch="all", return_as="generator_unordered", backend="loky", n_jobs=num_processes
    )
    with contextlib.closing(pool(delayed(_outcome)(worker, task) for task in tasks)) as outcomes:
        yield from outcomes


def _outcome(worker: Worker, task: Task) -> Outcome:
    return task, worker(task)
