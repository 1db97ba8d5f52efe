"""How much sooner several seeds are done by one process a core than by one process that trains them in turn.

As many seeds as processes. The sides: one process with a thread a core, one process with one thread, and one-thread
processes, one a core unless told otherwise, out of joblib's pool, as `pyro_vae.compare` runs cells. What counts
is the number of steps a second in all. Processes are kept from round to round: what they cost to start is reported
apart, and is not in the rounds.

    python -m benchmarks.seeds
    python -m benchmarks.seeds --batch 20 --rounds 3 --seconds 0.2
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky import get_reusable_executor

from benchmarks.one_seed import train
from benchmarks.step import HIDDEN_DIMS, NUM_DATA
from benchmarks.timing import Side, Spread, interleaved, ratios

BATCH_SIZES = (20, 256)
REFERENCE = "one_process"
START_TRIES = 20


def in_turn(work: Callable[[int], int], seeds: int) -> Side:
    """Return a side that trains the seeds one after another in this process."""
    return lambda index: [work(index) for _ in range(seeds)]


def in_processes(work: Callable[[int], int], processes: int) -> Side:
    """Return a side that trains the seeds at once, one in each process."""
    pool = Parallel(processes, backend="loky", batch_size=1)
    return lambda index: pool(delayed(work)(index) for _ in range(processes))


def started(side: Callable[[int], Sequence[int]], processes: int) -> float:
    """Call a side until every process has had work; returns the seconds that took.

    Raises:
        RuntimeError: some process never had any.
    """
    start, seen = perf_counter(), set[int]()
    for index in range(START_TRIES):
        seen.update(side(index))
        if len(seen) >= processes:
            return perf_counter() - start
    raise RuntimeError(f"benchmarks.seeds: only {len(seen)} of {processes} processes took up work.")


def measure(batch_size: int, processes: int, level: str, rounds: int, seconds: float) -> dict[str, Spread]:
    """Time all sides at one batch size.

    Args:
        batch_size: data a step.
        processes: how many, and as many seeds.
        level: of ``fit(compile=...)``.
        rounds: how many count.
        seconds: what a seed shall take in a round, were it alone; each side takes as many steps as that allows.

    Returns:
        ``steps_per_second`` of one process with all threads; ``one_thread`` and ``processes``, the speed of these
        sides as a multiple of that; ``processes_over_one_thread``, a multiple of one process with one thread; and
        ``start_seconds``, what it took once until every process was ready.
    """
    threads = torch.get_num_threads()
    try:
        steps = {number: _steps(batch_size, number, level, seconds) for number in (threads, 1)}
        work = {number: partial(train, batch_size, steps[number], number, level) for number in steps}
        sides = {
            REFERENCE: in_turn(work[threads], processes),
            "one_thread": in_turn(work[1], processes),
            "processes": in_processes(work[1], processes),
        }
        start = started(sides["processes"], processes)
        times = interleaved(sides, rounds)
    finally:
        torch.set_num_threads(threads)
        get_reusable_executor().shutdown()
    speeds = {
        name: [processes * steps[threads if name == REFERENCE else 1] / took for took in times[name]] for name in sides
    }
    found = {"steps_per_second": Spread.of(speeds[REFERENCE])}
    found |= {name: ratios(speeds[name], speeds[REFERENCE]) for name in sides if name != REFERENCE}
    found["processes_over_one_thread"] = ratios(speeds["processes"], speeds["one_thread"])
    return found | {"start_seconds": Spread.of([start])}


def _steps(batch_size: int, threads: int, level: str, seconds: float, trial: int = 20) -> int:
    """Return how many steps of a seed take about so many seconds, by the fastest of three trials."""
    took = interleaved({"trial": partial(train, batch_size, trial, threads, level)}, 3)["trial"]
    return min(max(1, round(trial * seconds / min(took))), NUM_DATA // batch_size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.seeds", description="Several seeds: processes beside threads.")
    parser.add_argument("--batch", type=int, nargs="+", choices=HIDDEN_DIMS, default=list(BATCH_SIZES))
    parser.add_argument("--processes", type=int, default=cpu_count(), help="and as many seeds; 2 or more")
    parser.add_argument("--compile", default="trace", help="level, as of fit")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a seed in a round, were it alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    if args.processes < 2:
        parser.error("--processes must be at least 2: with one there is nothing to compare")
    found = {}
    for batch_size in args.batch:
        found[batch_size] = measure(batch_size, args.processes, args.compile, args.rounds, args.seconds)
        if not args.json:
            _print_table(batch_size, args.processes, found[batch_size])
    if args.json:
        rows = {str(b): {name: round(s.median, 4) for name, s in found[b].items()} for b in found}
        print(json.dumps(rows))


def _print_table(batch_size: int, processes: int, found: dict[str, Spread]) -> None:
    layers = " x ".join(map(str, HIDDEN_DIMS[batch_size]))
    print(f"batch {batch_size}, hidden layers {layers}; {processes} seeds, steps a second in all")
    print(f"    one process, {torch.get_num_threads()} threads       {found['steps_per_second']:.0f}")
    print(f"    one process, one thread      {found['one_thread']:.2f} x that")
    print(f"    {processes} processes, one thread each {found['processes']:.2f} x that")
    print(f"        and of one process, one thread: {found['processes_over_one_thread']:.2f} x")
    print(
        f"    processes ready after {found['start_seconds'].median:.1f} s (imports, capture), not counted", flush=True
    )


if __name__ == "__main__":
    main()
