"""Whether the library has become slower: today's ratios beside stored ones. By hand, on a quiet machine.

    python -m benchmarks.regression --update     measure and store
    python -m benchmarks.regression              measure, compare, and exit with 1 where a ratio has become worse

The ratios are those of ``benchmarks.step`` at each batch size, for each level of ``fit``, and ``vs_plain`` of
``benchmarks.log_likelihood``. What is noise is measured, both when they are stored and today, and is no per cent that
anybody chose. A measurement is made in several processes, one after the other. In each, the rounds of a ratio give an
interval that holds its median with probability 0.99 whatever the rounds' law is: from the j-th smallest to the j-th
largest of n, with the largest j for which 2 P(Binomial(n, 1/2) < j) <= 0.01 (j = 3 of 15; below 8 rounds there is
none, and all of the range stands in). The band reaches from the lowest to the highest end of the processes'
intervals: what differs between processes (where memory lies, which cores they got) is within it, too.

A ratio fails where today's band lies wholly on the slow side of the stored one. Where nothing has changed, that
happens to less than one ratio in a hundred, as long as the machine is the same and as quiet as it was.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import log_likelihood, step
from benchmarks.training import X_DIM
from pyro_vae.graphs.levels import LEVELS

STORED = Path(__file__).with_name("ratios.json")
VS_PLAIN = "log_likelihood vs_plain"
COMPILED_VS_PLAIN = "log_likelihood vs_plain, compiled"
MORE_IS_FASTER = {VS_PLAIN, COMPILED_VS_PLAIN}
"""The other ratios are of times."""
NUM_SAMPLES = 5000
"""Of each image's estimate."""
OUTSIDE = 0.01
"""Probability that a process's interval does not hold the median."""


@dataclass(frozen=True)
class Band:
    """A ratio's median over all rounds, and between what the noise leaves it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, processes: Sequence[Sequence[float]]) -> "Band":
        """Return the band of a ratio from its rounds, process by process."""
        intervals = [median_interval(rounds) for rounds in processes]
        together = [value for rounds in processes for value in rounds]
        return cls(median(together), min(low for low, _ in intervals), max(high for _, high in intervals))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics between which the law's median lies, but for probability ``OUTSIDE``."""
    n = len(values)
    tails = accumulate(math.comb(n, count) / 2**n for count in range((n + 1) // 2))
    left_out = max(sum(2 * tail <= OUTSIDE for tail in tails) - 1, 0)
    ordered = sorted(values)
    return ordered[left_out], ordered[n - 1 - left_out]


def compare(stored: Mapping[str, Band], today: Mapping[str, Band]) -> list[str]:
    """Return a line for each stored ratio that has become worse beyond noise, or that was not measured."""
    failures = []
    for name, then in stored.items():
        now = today.get(name)
        if now is None:
            failures.append(f"{name}: stored as {then}, and not measured today")
        elif now.high < then.low if name in MORE_IS_FASTER else now.low > then.high:
            failures.append(f"{name}: {now} today, and {then} stored; the bands do not meet")
    return failures


def rounds_of(rounds: int, seconds: float, images: int) -> dict[str, list[float]]:
    """Measure in this process.

    Args:
        rounds: how many count.
        seconds: of the raw side in a round of ``benchmarks.step``.
        images: of ``benchmarks.log_likelihood``.

    Returns:
        Each ratio's value in each round.
    """
    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (step.NUM_DATA, X_DIM), dtype=torch.uint8).float()
    levels = [name for name in step.SIDES if name in LEVELS]
    found: dict[str, list[float]] = {}
    for batch_size in step.HIDDEN_DIMS:
        spreads = step.measure(pixels, batch_size, rounds, seconds, levels)
        found |= {f"step {batch_size} {level}": list(spreads[level].values) for level in levels}
    speeds, _ = log_likelihood.measure(images, NUM_SAMPLES, rounds, 1, [2500], "trace")
    evidence = {VS_PLAIN: "vs_plain", COMPILED_VS_PLAIN: "inductor"}
    return found | {name: list(speeds[key].values) for name, key in evidence.items()}


def environment(settings: Sequence[str]) -> dict[str, Any]:
    """Return what must be the same for ratios to compare."""
    return {
        "settings": " ".join(settings),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and compare or store."""
    parser = argparse.ArgumentParser(prog="benchmarks.regression", description="Today's ratios beside stored ones.")
    parser.add_argument("--update", action="store_true", help="store today's ratios")
    parser.add_argument("--file", type=Path, default=STORED)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of the raw side's steps in a round")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--one-process", action="store_true", help="print the rounds of one process as JSON")
    args = parser.parse_args(arguments)
    if args.one_process:
        print(json.dumps(rounds_of(args.rounds, args.seconds, args.images)))
        return
    if not args.update and not args.file.is_file():
        parser.error(f"there are no stored ratios in {args.file}; on a quiet machine, store some by --update")

    settings = ["--rounds", str(args.rounds), "--seconds", str(args.seconds), "--images", str(args.images)]
    today = _measure(args.processes, settings)
    if args.update:
        ratios = {name: {k: round(v, 4) for k, v in asdict(band).items()} for name, band in today.items()}
        args.file.write_text(json.dumps({"environment": environment(settings), "ratios": ratios}, indent=1) + "\n")
        print(f"stored in {args.file}")
        return
    content = json.loads(args.file.read_text())
    stored = {name: Band(**values) for name, values in content["ratios"].items()}
    here = environment(settings)
    for what in sorted(key for key in here if here[key] != content["environment"].get(key)):
        print(f"{what}: {here[what]} today, {content['environment'].get(what)} stored; the ratios may not compare")
    for name, band in today.items():
        print(f"{name:28s} {band!s:26s} stored: {stored.get(name, 'nothing; --update')}")
    failures = compare(stored, today)
    if failures:
        sys.exit("\n".join(["slower beyond noise:", *failures]))


def _measure(processes: int, settings: Sequence[str]) -> dict[str, Band]:
    command = [sys.executable, "-m", "benchmarks.regression", "--one-process", *settings]
    runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(processes)]
    return {name: Band.of([run[name] for run in runs]) for name in runs[0]}


if __name__ == "__main__":
    main()
