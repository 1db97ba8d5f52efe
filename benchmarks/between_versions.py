"""Times this checkout beside another one: training steps at each level of ``fit``, and the evidence.

    git worktree add ../before COMMIT
    python -m benchmarks.between_versions ../before

Each checkout has a process of its own, which makes everything ready and then waits. The two work in turn, A B A B, a
tenth of a second each, so that what slows the machine slows both; the ratio is taken within each turn, and the
median and an interval of the median at 99 % are printed. Both checkouts run under this environment's packages and
their own ``benchmarks`` folder.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

SECONDS = 0.1
"""Of one turn of one side."""

READY = "ready"


class Checkout:
    """A process that works on request, with the code of one checkout."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--work"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, request: str) -> str:
        """Send a line and return the line that answers it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"a checkout's process has ended at {request!r}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def work() -> None:
    """Answer requests: ``make NAME`` gets ready; ``run NAME COUNT`` works so many times and prints the seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr
    makers, sides = _makers(), {}
    for line in sys.stdin:
        what, name, *count = line.strip().split(":")
        if what == "make":
            sides[name] = makers[name]()
            sides[name]()
            print(READY, file=answers, flush=True)
        else:
            start = perf_counter()
            for _ in range(int(count[0])):
                sides[name]()
            print(perf_counter() - start, file=answers, flush=True)


def _makers() -> Mapping[str, Callable[[], Callable[[], object]]]:
    """Return what is timed, by name. Only in a checkout's own process: its imports are that checkout's."""
    import torch

    import pyro_vae
    from benchmarks.batches import NumberedBatches
    from benchmarks.step import HIDDEN_DIMS
    from benchmarks.training import LATENT_DIM, X_DIM, ours
    from pyro_vae.guides import MeanFieldGuide
    from pyro_vae.models import VAE

    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (10_000, X_DIM), dtype=torch.uint8).float()

    def step(batch_size: int, level: str) -> Callable[[], object]:
        epoch = ours(NumberedBatches(pixels[: 10 * batch_size], batch_size), HIDDEN_DIMS[batch_size], level)
        epoch(0)
        return lambda: epoch(1)

    def evidence(level: str) -> Callable[[], object]:
        model, guide = VAE((X_DIM,), LATENT_DIM, (400,)), MeanFieldGuide((X_DIM,), LATENT_DIM, (400,))
        return lambda: pyro_vae.log_likelihood(
            model, guide, pixels[:100], 5000, seed=0, progress=False, compile=level
        )  # fmt: skip

    makers: dict[str, Callable[[], Callable[[], object]]] = {}
    for level in ("off", "trace", "inductor"):
        for batch_size in (256, 20):
            makers[f"step, batch {batch_size}, {level}"] = partial(step, batch_size, level)
        makers[f"evidence, K = 5000, {level}"] = partial(evidence, level)
    return makers


def main() -> None:
    """Time both checkouts in turn and print a line for each thing that is timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--only", default="", help="what a name must contain")
    options = parser.parse_args()
    from benchmarks.regression import median_interval

    here = Path(__file__).resolve().parents[1]
    ours, other = Checkout(here), Checkout(options.other.resolve())
    for name in (name for name in _makers() if options.only in name):
        for side in (ours, other):
            side.ask(f"make:{name}")
        count = max(1, round(SECONDS / float(other.ask(f"run:{name}:1"))))
        ratios = []
        for _ in range(options.rounds):
            before, now = (float(side.ask(f"run:{name}:{count}")) for side in (other, ours))
            ratios.append(now / before)
        low, high = median_interval(ratios)
        print(f"{name:30s} {sorted(ratios)[len(ratios) // 2]:.3f} ({low:.3f} to {high:.3f}) x before", flush=True)
    for side in (ours, other):
        side.close()


if __name__ == "__main__":
    work() if "--work" in sys.argv[1:] else main()
