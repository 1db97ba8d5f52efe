"""How long a training step takes, as a multiple of hand-written PyTorch's.

The table of DESIGN.md: three batch sizes, each with the network that people use with it. Every side draws the same
shuffled batches from one tensor of random binary pixels (what they show does not change what a step costs), and
reads its loss as a Python number every step. Sides whose library is not installed are left out.

    python -m benchmarks.step
    python -m benchmarks.step --batch 20 --rounds 3 --seconds 0.1 --sides trace jit_elbo numpyro_scan
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.batches import NumberedBatches
from benchmarks.floors import matmul_floor, memory_floor
from benchmarks.opponents import Opponent
from benchmarks.timing import Side, Spread, interleaved, ratios
from benchmarks.training import X_DIM, ours, pyro_example, raw

HIDDEN_DIMS = {256: (400,), 64: (400,), 20: (200, 200)}
"""Batch size to hidden layers."""
NUM_DATA = 60_000
"""As many as MNIST has: the batches are gathered from as large a tensor."""
REFERENCE = "raw"
SIDES: dict[str, Callable[[NumberedBatches, tuple[int, ...]], Side]] = {
    REFERENCE: raw,
    "inductor": partial(ours, level="inductor"),
    "trace": partial(ours, level="trace"),
    "off": partial(ours, level="off"),
    "pyro_example": pyro_example,
    "jit_elbo": Opponent("jit_elbo", "compiled"),
    "numpyro_jit": Opponent("numpyro_vae", "jitted"),
    "numpyro_scan": Opponent("numpyro_vae", "scanned"),
    "pythae": Opponent("pythae_vae", "own_loader"),
    "pythae_same_batches": Opponent("pythae_vae", "same_batches"),
    "matmul_floor": matmul_floor,
    "memory_floor": memory_floor,
}


def measure(
    pixels: Tensor, batch_size: int, rounds: int, seconds: float, names: Sequence[str] = tuple(SIDES)
) -> dict[str, Spread]:
    """Time sides at one batch size.

    Args:
        pixels: ``(N, 784)``, in {0, 1}.
        batch_size: data a step.
        rounds: how many count.
        seconds: what a round of the raw side shall take; all sides take the same number of steps.
        names: of the sides, in the order of their turns; raw is always one of them.

    Returns:
        ``raw_ms``, the raw side's milliseconds a step, and every other side's ratio to raw, but for those whose
        library is not installed.
    """
    hidden_dims = HIDDEN_DIMS[batch_size]
    steps = _steps(raw(_batches(pixels, batch_size, 20), hidden_dims), 20, seconds)
    steps = min(steps, len(pixels) // batch_size)
    batches = _batches(pixels, batch_size, steps)
    sides = {}
    for name in dict.fromkeys([REFERENCE, *names]):
        try:
            sides[name] = SIDES[name](batches, hidden_dims)
        except ModuleNotFoundError as missing:
            if missing.name is None or missing.name.split(".")[0] in ("benchmarks", "pyro_vae"):
                raise
            why = f"{missing.name} is not installed; benchmarks/README.md says how"
            print(f"benchmarks.step: {name} is left out: {why}", file=sys.stderr)
    times = interleaved(sides, rounds)
    raw_times = times.pop(REFERENCE)
    found = {"raw_ms": Spread.of([1e3 * took / steps for took in raw_times])}
    return found | {name: ratios(took, raw_times) for name, took in times.items()}


def _batches(pixels: Tensor, batch_size: int, steps: int) -> NumberedBatches:
    """Return batches whose epoch has the given number of steps."""
    return NumberedBatches(pixels[: steps * batch_size], batch_size)


def _steps(side: Side, steps: int, seconds: float) -> int:
    """Return how many steps take about so many seconds, by a side that takes ``steps`` steps a call."""
    side(0)
    start = perf_counter()
    side(1)
    return max(1, round(steps * seconds / (perf_counter() - start)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.step", description="Training step, as a multiple of raw PyTorch.")
    parser.add_argument("--batch", type=int, nargs="+", choices=HIDDEN_DIMS, default=list(HIDDEN_DIMS))
    others = [name for name in SIDES if name != REFERENCE]
    parser.add_argument("--sides", nargs="+", choices=others, default=others, help="beside raw")
    parser.add_argument("--num-data", type=int, default=NUM_DATA, help="images that the batches are drawn from")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.4, help="of the raw side in a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)

    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (args.num_data, X_DIM), dtype=torch.uint8).float()
    found = {}
    for batch_size in args.batch:
        found[batch_size] = measure(pixels, batch_size, args.rounds, args.seconds, args.sides)
        if not args.json:
            _print_table(batch_size, found[batch_size])
    if args.json:
        rows = {str(b): {name: round(s.median, 4) for name, s in found[b].items()} for b in found}
        print(json.dumps(rows))


def _print_table(batch_size: int, found: dict[str, Spread]) -> None:
    layers = " x ".join(map(str, HIDDEN_DIMS[batch_size]))
    print(f"batch {batch_size}, hidden layers {layers}: raw PyTorch takes {found['raw_ms']:.2f} ms a step")
    for name, spread in found.items():
        if name != "raw_ms":
            print(f"    {name:20s} {spread:.2f} x raw")
    print(flush=True)


if __name__ == "__main__":
    main()
