"""Where cells are run: in this process, in processes of this machine, or by a cluster, all through joblib."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from typing import Any

import torch

from pyro_vae.comparison.results import write_error
from pyro_vae.comparison.task import Task, work
from pyro_vae.errors import ClusterError

BACKENDS = ("serial", "loky", "dask", "ray")

Outcome = tuple[Task, str | None]
"""A task that ended, and what it failed with."""

Worker = Callable[[Task], str | None]

CONNECT_SECONDS = 15.0
"""What a scheduler has to answer in."""

KILLED = "its process was killed: out of memory, or a crash"


def run_tasks(
    tasks: Sequence[Task], *, jobs: int = 1, threads: int | None = None, backend: str = "loky",
    scheduler: str | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Run tasks and yield each as it ends.

    Args:
        tasks: in the order in which they are started.
        jobs: processes on this machine; 1 runs all in this process.
        threads: of each process; those of this one divided among the jobs unless given.
        backend: "serial", "loky", "dask" or "ray".
        scheduler: address of the cluster.

    Raises:
        ValueError: there is no such backend, or an option that it does not take.
        ClusterError: the scheduler cannot be reached, or its workers are not as they must be.
    """
    if backend not in BACKENDS:
        raise ValueError(f"compare: backend must be one of {', '.join(BACKENDS)}; got {backend!r}.")
    if jobs < 1:
        raise ValueError(f"compare: jobs must be at least 1; got {jobs}.")
    if (scheduler is not None) != (backend == "dask") and backend != "ray":
        raise ValueError(
            f"compare: backend {backend!r} takes no scheduler; got {scheduler!r}."
            if scheduler is not None
            else "compare: backend 'dask' needs the address of a scheduler, as scheduler='tcp://HOST:8786'."
        )
    if backend in ("dask", "ray"):
        connect = _dask if backend == "dask" else _ray
        with connect(scheduler):
            yield from _parallel(tasks, partial(work, threads=threads), n_jobs=-1)
        return
    threads = max(1, torch.get_num_threads() // jobs) if threads is None else threads
    worker = partial(work, threads=threads, parent=os.getpid())
    if backend == "serial" or jobs == 1:
        for task in tasks:
            yield task, worker(task)
        return
    yield from _in_processes(tasks, worker, jobs)


def _in_processes(tasks: Sequence[Task], worker: Worker, jobs: int) -> Iterator[Outcome]:
    """Yield tasks as they end; where a process was killed, go on with those left one at a time."""
    left = {id(task): task for task in tasks}
    try:
        # In a pool of one, joblib would run the task in this process.
        for task, error in _parallel(tasks, worker, n_jobs=max(2, min(jobs, len(tasks))), backend="loky"):
            left.pop(id(task))
            yield task, error
        return
    except BrokenProcessPool:
        pass
    for task in left.values():
        try:
            yield from _parallel([task], worker, n_jobs=2, backend="loky")
        except BrokenProcessPool:
            write_error(task.path, KILLED)
            yield task, KILLED


def _parallel(tasks: Sequence[Task], worker: Worker, **options: Any) -> Iterator[Outcome]:
    from joblib import Parallel, delayed

    calls = [delayed(_numbered)(number, worker, task) for number, task in enumerate(tasks)]
    pool = Parallel(batch_size=1, pre_dispatch="all", **options)
    if not pool._backend.supports_return_generator:
        # All at once, when the last one ends.
        for number, error in pool(calls):
            yield tasks[number], error
        return
    pool = Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered", **options)
    with closing(pool(calls)) as outcomes:
        for number, error in outcomes:
            yield tasks[number], error


def _numbered(number: int, worker: Worker, task: Task) -> tuple[int, str | None]:
    return number, worker(task)


def _dask(scheduler: str | None) -> AbstractContextManager[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError("backend 'dask' needs the package distributed: pip install 'pyro-vae[dask]'.") from error
    stack = ExitStack()
    try:
        client = stack.enter_context(Client(scheduler, timeout=CONNECT_SECONDS))
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler}; waited {CONNECT_SECONDS:.0f} s. Start one with `dask "
            f"scheduler`, and give the address that it prints."
        ) from error
    with stack:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        several = [address for address, worker in workers.items() if worker["nthreads"] > 1]
        if several:
            raise ClusterError(
                f"workers of {scheduler} run several tasks in one process ({several[0]} and {len(several) - 1} more), "
                f"and Pyro's state belongs to a process: start them with `dask worker --nthreads 1`, as many as there "
                f"are tasks to run at once."
            )
        from joblib import parallel_config

        stack.enter_context(parallel_config("dask", wait_for_workers_timeout=CONNECT_SECONDS))
        return stack.pop_all()


def _ray(address: str | None) -> AbstractContextManager[Any]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ClusterError("backend 'ray' needs the package ray: pip install 'pyro-vae[ray]'.") from error
    stack = ExitStack()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, OSError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    stack.callback(ray.shutdown)
    register_ray()
    from joblib import parallel_config

    stack.enter_context(parallel_config("ray"))
    return stack
