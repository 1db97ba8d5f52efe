"""Run cells on the machines of a cluster, by Dask or by Ray."""

from collections.abc import Iterator, Sequence
from typing import Any

from pyro_vae.comparison.results import write_error
from pyro_vae.comparison.task import Outcome, Task, Worker
from pyro_vae.errors import ClusterError

RAY_RETRIES = 3
"""How often Ray restarts a cell whose worker died. Dask's scheduler has its own number, 3 by default."""


def on_dask(
    tasks: Sequence[Task], worker: Worker, scheduler: str | None, connect_seconds: float = 15.0
) -> Iterator[Outcome]:
    """Run tasks on the workers of a Dask scheduler, and yield each as it ends.

    Within ``connect_seconds`` the scheduler and its first worker must answer.

    Raises:
        ClusterError: there is no Dask, no scheduler or no worker, workers run several tasks in one process, or the
            scheduler goes away.
    """
    try:
        from distributed import CancelledError, Client
    except ImportError as error:
        raise ClusterError("backend 'dask' needs the package distributed: pip install 'pyro-vae[dask]'.") from error
    try:
        client = Client(scheduler, timeout=connect_seconds)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler}; waited {connect_seconds:.0f} s. Start one with `dask "
            f"scheduler`, and give the address that it prints."
        ) from error
    with client:
        _check_workers(client, scheduler, connect_seconds)
        num_left, suspects = len(tasks), []
        try:
            for task, outcome, deaths in _as_they_end(client, worker, tasks):
                if deaths:
                    suspects.append(task)
                else:
                    num_left -= 1
                    yield task, outcome
            # Dask counts a worker's death for every cell that was sent to it. Each suspect is run alone, to find out
            # whether it was the cause.
            for suspect in suspects:
                for task, outcome, deaths in _as_they_end(client, worker, [suspect]):
                    num_left -= 1
                    yield task, _give_up(task, f"{deaths} times with no other cell") if deaths else outcome
        except CancelledError as error:
            raise ClusterError(
                f"the Dask scheduler at {scheduler} went away with {num_left} of {len(tasks)} cells left. Start it "
                f"and its workers again, and then the same command: what is finished stays."
            ) from error


def _as_they_end(client: Any, worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, str | None, int]]:
    """Yield each task as it ends, its error, and how many workers died of it if Dask gave it up, else 0."""
    from distributed import KilledWorker, as_completed

    futures = {client.submit(worker, task, pure=False): task for task in tasks}
    try:
        for future in as_completed(list(futures)):
            task, error, deaths = futures.pop(future), None, 0
            try:
                error = future.result()
            except KilledWorker as killed:
                deaths = killed.allowed_failures + 1
            # Otherwise Dask would compute a result again when the worker that holds it dies.
            future.release()
            yield task, error, deaths
    finally:
        if client.status == "running":
            client.cancel(list(futures))


def _check_workers(client: Any, scheduler: str | None, connect_seconds: float) -> None:
    try:
        # An adaptive cluster starts workers only when it has a task.
        client.submit(int, pure=False).result(timeout=connect_seconds)
    except TimeoutError as error:
        raise ClusterError(
            f"the Dask scheduler at {scheduler} has no workers; waited {connect_seconds:.0f} s. Start some with `dask "
            f"worker --nthreads 1 {scheduler}`."
        ) from error
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threaded = [address for address, worker in workers.items() if worker["nthreads"] > 1]
    if threaded:
        raise ClusterError(
            f"workers of {scheduler} run several tasks in one process ({threaded[0]} and {len(threaded) - 1} more), "
            f"and Pyro's state belongs to a process: start one worker for each task to run at once, with `dask worker "
            f"--nthreads 1`."
        )


def on_ray(tasks: Sequence[Task], worker: Worker, address: str | None) -> Iterator[Outcome]:
    """Run tasks on a Ray cluster, or on one that is started on this machine, and yield each as it ends.

    If this process is connected to Ray already, this connection is used and left open.

    Raises:
        ClusterError: there is no Ray, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("backend 'ray' needs the package ray: pip install 'pyro-vae[ray]'.") from error
    starts = not ray.is_initialized()
    if starts:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, OSError) as error:
            raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    deaths = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    try:
        run = ray.remote(lambda task: worker(task)).options(max_retries=RAY_RETRIES)
        futures = {run.remote(task): task for task in tasks}
        while futures:
            (ended,), _ = ray.wait(list(futures))
            task = futures.pop(ended)
            try:
                outcome = ray.get(ended)
            except deaths as error:
                outcome = _give_up(task, f"each time ({type(error).__name__})")
            yield task, outcome
    finally:
        if starts:
            ray.shutdown()


def _give_up(task: Task, how_often: str) -> str:
    """Record that a cell's workers died, and return the recorded error."""
    error = f"its worker died {how_often}: out of memory, or a crash"
    write_error(task.path, error)
    return error
