"""Where the seconds of ``examples/svi_mnist.py`` go, from the start of its process to its end.

python -m benchmarks.wall_time                                  the example's defaults, minutes
python -m benchmarks.wall_time -- --smoke                       any argument of the example
python -m benchmarks.wall_time --json -- --epochs 2 --compile off
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks import stages

GROUPS = ("interpreter", "imports", "data", "model", "fit", "evaluation", "figures", "other")
"""In the order of the table."""


def measure(arguments: Sequence[str], quiet: bool = False) -> tuple[float, dict[str, float]]:
    """Run the example in a process of its own.

    Args:
        arguments: of the example.
        quiet: send what the example prints to stderr.

    Returns:
        The wall time of the process, and what each stage of it took, in seconds. A stage is called "group: part"
        where a group has several.

    Raises:
        SystemExit: the example failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        command = [sys.executable, stages.__file__, str(file), "--out", f"{folder}/run", *arguments]
        started, start = time.time(), time.perf_counter()
        done = subprocess.run(command, stdout=sys.stderr if quiet else None)
        total, stopped = time.perf_counter() - start, time.time()
        if done.returncode:
            raise SystemExit(done.returncode)
        found = json.loads(file.read_text())
    # Before and after the example's own clock runs: the time of day is what two processes share.
    seconds = {
        "interpreter: start": found["began"] - started,
        **found["seconds"],
        "interpreter: exit": stopped - found["ended"],
    }
    return total, dict(sorted(seconds.items(), key=lambda item: GROUPS.index(_group(item[0]))))


def _group(stage: str) -> str:
    return stage.partition(":")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.wall_time", description="Seconds of examples/svi_mnist.py.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("example", nargs="*", metavar="-- ARGUMENTS", help="of the example; its --out is a "
                        "temporary folder unless given")  # fmt: skip
    args = parser.parse_args(arguments)
    total, seconds = measure(args.example, quiet=args.json)
    if args.json:
        print(json.dumps({"total": round(total, 4), "stages": {name: round(s, 4) for name, s in seconds.items()}}))
        return
    _print_table(total, seconds)


def _print_table(total: float, seconds: dict[str, float]) -> None:
    def line(name: str, took: float) -> None:
        print(f"{name:42} {took:9.2f} {100 * took / total:7.1f} %")

    print(f"\n{'wall time of examples/svi_mnist.py':42} {'seconds':>9} {'share':>9}")
    for group, members in groupby(seconds.items(), key=lambda item: _group(item[0])):
        parts = list(members)
        line(group, sum(took for _, took in parts))
        for stage, took in parts if len(parts) > 1 else ():
            line(f"    {stage.partition(': ')[2]}", took)
    line("all of it", total)


if __name__ == "__main__":
    main()
