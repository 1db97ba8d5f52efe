"""Cells on the machines of a cluster, by Dask or by Ray: each a future, of which one after the other ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from pyro_vae.comparison.results import write_error
from pyro_vae.comparison.task import Outcome, Task, Worker
from pyro_vae.errors import ClusterError

CONNECT_SECONDS = 15.0
"""What a scheduler and its first worker have to answer in."""

ATTEMPTS = 4
"""How often a cell is begun whose worker dies each time."""

KILLED = f"its worker died {ATTEMPTS} times: out of memory, or a crash"

Runner = Callable[[Sequence[Task], Worker, str | None], Iterator[Outcome]]


def on_dask(tasks: Sequence[Task], worker: Worker, scheduler: str | None) -> Iterator[Outcome]:
    """Run tasks on the workers of a Dask scheduler, and yield each as it ends.

    Raises:
        ClusterError: there is no Dask, no scheduler or no worker, workers run several tasks in one process, or the
            scheduler goes away.
    """
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError as error:
        raise ClusterError("backend 'dask' needs the package distributed: pip install 'pyro-vae[dask]'.") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler}; waited {CONNECT_SECONDS:.0f} s. Start one with `dask "
            f"scheduler`, and give the address that it prints."
        ) from error
    with closing(client):
        _check_workers(client, scheduler)
        futures = [client.submit(worker, task, pure=False, retries=0) for task in tasks]
        of = dict(zip(futures, tasks, strict=True))
        left = len(tasks)
        try:
            for future in as_completed(futures):
                try:
                    outcome = future.result()
                except KilledWorker:
                    outcome = _given_up(of[future])
                yield of[future], outcome
                left -= 1
        except CancelledError as error:
            raise ClusterError(
                f"the Dask scheduler at {scheduler} went away with {left} of {len(tasks)} cells left. Start it and its "
                f"workers again, and then the same command: what is finished stays."
            ) from error
        finally:
            if client.status == "running":
                client.cancel(futures)


def _check_workers(client: Any, scheduler: str | None) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
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

    Raises:
        ClusterError: there is no Ray, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError("backend 'ray' needs the package ray: pip install 'pyro-vae[ray]'.") from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, OSError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error
    try:
        run = ray.remote(lambda task: worker(task)).options(max_retries=ATTEMPTS - 1)
        of = {run.remote(task): task for task in tasks}
        while of:
            (ended,), _ = ray.wait(list(of))
            task = of.pop(ended)
            try:
                yield task, ray.get(ended)
            except ray.exceptions.WorkerCrashedError:
                yield task, _given_up(task)
    finally:
        ray.shutdown()


def _given_up(task: Task) -> str:
    write_error(task.path, KILLED)
    return KILLED
