"""What a grid costs beside its cells, and what processes of one thread each gain over one after the other.

    python -m benchmarks.grid
    python -m benchmarks.grid --epochs 20 --rounds 3

Overhead: all that a grid of one cell does around it in a new folder (hashes, locks, log, tables), as a share of what
the cell itself takes in the same run: two runs of a minute would differ by more. Speed: a grid of as many one-thread
cells as `--cells`, in processes and in turn, each from an empty folder; processes are started within the time.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any
from unittest.mock import patch

from joblib.externals.loky import get_reusable_executor

from benchmarks.timing import Side, Spread, interleaved, ratios
from pyro_vae.comparison import CellResult, compare, task
from pyro_vae.comparison.run_cell import run_cell


def settings(epochs: int, data: str = "mnist-5k") -> dict[str, Any]:
    """Return the settings of the cells: the networks of the small example, measured on all test images."""
    return {"data": data, "latent_dim": 10, "epochs": epochs, "num_samples": 100, "elbo_samples": 10}


def around(common: dict[str, Any]) -> tuple[float, float]:
    """Run a grid of one cell; return the seconds of the cell, and those of all around it."""
    inside: list[float] = []

    def timed(*args: Any, **options: Any) -> CellResult:
        start = perf_counter()
        result = run_cell(*args, **options)
        inside.append(perf_counter() - start)
        return result

    with tempfile.TemporaryDirectory() as folder, patch.object(task, "run_cell", timed):
        start = perf_counter()
        compare({"common": common, "cells": [{}]}, folder, progress=False)
        whole = perf_counter() - start
    return inside[0], whole - inside[0]


def in_a_grid(common: dict[str, Any], cells: int, jobs: int, threads: int | None) -> Side:
    """Return a grid of cells a round, in a new folder and in new processes."""
    grid = {"common": common, "grid": {"seed": list(range(cells))}}

    def run(_: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = compare(grid, folder, jobs=jobs, threads=threads, progress=False)
            assert not done.failed
        get_reusable_executor().shutdown()

    return run


def measure(epochs: int, cells: int, jobs: int, rounds: int) -> dict[str, Spread]:
    """Time the sides in turn.

    Returns:
        ``cell_seconds``; ``overhead``, what a grid of one cell takes more, as a share of it; ``serial_seconds`` of as
        many one-thread cells in turn; and ``speedup`` by processes.
    """
    common = settings(epochs)
    once = [around(common) for _ in range(rounds)]
    in_threads = partial(in_a_grid, common, cells, threads=1)
    times = interleaved({"serial": in_threads(jobs=1), "processes": in_threads(jobs=jobs)}, rounds, warmup=0)
    return {
        "cell_seconds": Spread.of([cell for cell, _ in once]),
        "overhead": Spread.of([rest / cell for cell, rest in once]),
        "serial_seconds": Spread.of(times["serial"]),
        "speedup": ratios(times["serial"], times["processes"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.grid", description="What a grid costs, and what processes gain.")
    parser.add_argument("--epochs", type=int, default=150, help="of a cell")
    parser.add_argument("--cells", type=int, default=4, help="of the grid that is run in processes")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    found = measure(args.epochs, args.cells, args.jobs, args.rounds)
    if args.json:
        print(json.dumps({name: round(spread.median, 5) for name, spread in found.items()}))
        return
    print(f"a cell of {args.epochs} epochs takes          {found['cell_seconds']:.1f} s")
    print(f"    a grid of one takes more, share of it   {found['overhead']:.4f}")
    print(f"{args.cells} one-thread cells in turn take          {found['serial_seconds']:.1f} s")
    print(f"    {args.jobs} processes are faster by              {found['speedup']:.2f} x")


if __name__ == "__main__":
    main()
