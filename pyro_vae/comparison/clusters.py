"""Cells on the machines of a cluster, by Dask or by Ray: each a future, of which one after the other ends."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyro_vae.comparison.results import write_error
from pyro_vae.comparison.task import Outcome, Task, Worker
from pyro_vae.errors import ClusterError

CONNECT_SECONDS = 15.0
"""What a scheduler and its first worker have to answer in."""

RAY_RETRIES = 3
"""How often Ray begins a cell again whose worker died. Dask's scheduler has a number of its own, 3 by default."""

Runner = Callable[[Sequence[Task], Worker, str | None], Iterator[Outcome]]


def on_dask(tasks: Sequence[Task], worker: Worker, scheduler: str | None) -> Iterator[Outcome]:
    """Run tasks on the workers of a Dask scheduler, and yield each as it ends.

    Raises:
        ClusterError: there is no Dask, no scheduler or no worker, workers run several tasks in one process, or the
            scheduler goes away.
    """
    try:
        from distributed import CancelledError, Client
    except ImportError as error:
        raise ClusterError("backend 'dask' needs the package distributed: pip install 'pyro-vae[dask]'.") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler}; waited {CONNECT_SECONDS:.0f} s. Start one with `dask "
            f"scheduler`, and give the address that it prints."
        ) from error
    with client:
        _check_workers(client, scheduler)
        left, suspects = set(tasks), []
        try:
            for task, outcome, deaths in _as_they_end(client, worker, tasks):
                if deaths:
                    suspects.append(task)
                    continue
                left.remove(task)
                yield task, outcome
            # A death is held against all that a worker had been sent, also against what it had not begun: one at a
            # time it is clear which cell it was.
            for suspect in suspects:
                for task, outcome, deaths in _as_they_end(client, worker, [suspect]):
                    left.remove(task)
                    yield task, _given_up(task, f"{deaths} times with no other cell") if deaths else outcome
        except CancelledError as error:
            raise ClusterError(
                f"the Dask scheduler at {scheduler} went away with {len(left)} of {len(tasks)} cells left. Start it "
                f"and its workers again, and then the same command: what is finished stays."
            ) from error


def _as_they_end(client: Any, worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, str | None, int]]:
    """Yield each task with what it failed with, and how often its worker died if it was given up for that."""
    from distributed import KilledWorker, as_completed

    of = {client.submit(worker, task, pure=False): task for task in tasks}
    try:
        for future in as_completed(list(of)):
            task, outcome, deaths = of.pop(future), None, 0
            try:
                outcome = future.result()
            except KilledWorker as error:
                deaths = error.allowed_failures + 1
            # What is kept on a worker would be computed again when that dies.
            future.release()
            yield task, outcome, deaths
    finally:
        if client.status == "running":
            client.cancel(list(of))


def _check_workers(client: Any, scheduler: str | None) -> None:
    try:
        # Something to do, without which an adaptive cluster starts none.
        client.submit(int, pure=False).result(timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the Dask scheduler at {scheduler} has no workers; waited {CONNECT_SECONDS:.0f} s. Start some with `dask "
            f"worker --nthreads 1 {scheduler}`."
        ) from error
    workers = client.scheduler_info(n_workers=-1)["workers"]
    several = [address for address, worker in workers.items() if worker["nthreads"] > 1]
    if several:
        raise ClusterError(
            f"workers of {scheduler} run several tasks in one process ({several[0]} and {len(several) - 1} more), "
            f"and Pyro's state belongs to a process: start them with `dask worker --nthreads 1`, as many as there "
            f"are tasks to run at once."
        )


def on_ray(tasks: Sequence[Task], worker: Worker, address: str | None) -> Iterator[Outcome]:
    """Run tasks on a Ray cluster, or on one that is started on this machine, and yield each as it ends.

    Where Ray runs in this process already, it is used as it is, and goes on.

    Raises:
        ClusterError: there is no Ray, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("backend 'ray' needs the package ray: pip install 'pyro-vae[ray]'.") from error
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, OSError) as error:
            raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    try:
        run = ray.remote(lambda task: worker(task)).options(max_retries=RAY_RETRIES)
        of = {run.remote(task): task for task in tasks}
        while of:
            (ended,), _ = ray.wait(list(of))
            task = of.pop(ended)
            try:
                outcome = ray.get(ended)
            except died as error:
                outcome = _given_up(task, f"each time ({type(error).__name__})")
            yield task, outcome
    finally:
        if own:
            ray.shutdown()


def _given_up(task: Task, how_often: str) -> str:
    said = f"its worker died {how_often}: out of memory, or a crash"
    write_error(task.path, said)
    return said
