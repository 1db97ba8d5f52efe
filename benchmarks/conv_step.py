"""How long a training step with convolutions takes, as a multiple of the same networks written by hand in PyTorch.

`fit`'s own loop with `conv` as encoder and decoder, beside eager PyTorch in channels-last memory with one fused Adam
(`raw_conv_vae.py`): images of 28 x 28, z of 50 dims, convolutions to 32 and 64 channels, a linear layer of 256.

    python -m benchmarks.conv_step
    python -m benchmarks.conv_step --batch 32 --rounds 5 --seconds 0.5 --cpu-time
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from time import perf_counter, process_time

import torch
from torch import Tensor

from benchmarks.batches import NumberedBatches
from benchmarks.raw_conv_vae import RawConvVAE
from benchmarks.timing import Side, Spread, interleaved, ratios
from benchmarks.training import LATENT_DIM, LEARNING_RATE, in_fit
from pyro_vae.parts import make_pair

X_SHAPE = (1, 28, 28)
CHANNELS, HIDDEN = (32, 64), 256
NETWORK = f"conv(channels={CHANNELS}, linear_dims=({HIDDEN},))"
LEVELS = ("inductor", "trace", "off")


def raw(batches: NumberedBatches) -> Side:
    """Return the hand-written VAE with one fused Adam."""
    vae = RawConvVAE(X_SHAPE, LATENT_DIM, CHANNELS, HIDDEN)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)

    def epoch(index: int) -> float:
        total = 0.0
        for x in batches.images(index):
            optimizer.zero_grad()
            loss = vae.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return epoch


def ours(batches: NumberedBatches, level: str) -> Side:
    """Return this library's VAE with the same networks, as ``fit`` trains it."""
    return in_fit(*make_pair(X_SHAPE, LATENT_DIM, (), network=NETWORK), batches, level)


def measure(
    images: Tensor,
    batch_size: int,
    rounds: int,
    seconds: float,
    levels: Sequence[str] = LEVELS,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Spread]:
    """Time the levels of ``fit`` and the hand-written side in turn.

    Args:
        images: ``(N, 1, 28, 28)``, in {0, 1}.
        batch_size: images a step.
        rounds: how many count.
        seconds: what a round of the hand-written side shall take; all sides take the same number of steps.
        levels: of ``compile``.
        clock: tells the seconds.

    Returns:
        ``raw_ms``, the hand-written side's milliseconds a step, and each level's ratio to it.
    """
    first = raw(NumberedBatches(images[: 2 * batch_size], batch_size))
    first(0)
    start = perf_counter()
    first(1)
    steps = min(max(1, round(2 * seconds / (perf_counter() - start))), len(images) // batch_size)
    batches = NumberedBatches(images[: steps * batch_size], batch_size)
    sides = {"raw": raw(batches), **{level: ours(batches, level) for level in levels}}
    times = interleaved(sides, rounds, clock=clock)
    raw_times = times.pop("raw")
    found = {"raw_ms": Spread.of([1e3 * took / steps for took in raw_times])}
    return found | {level: ratios(took, raw_times) for level, took in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.conv_step", description="Training step with convolutions, as a multiple of raw PyTorch."
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--num-data", type=int, default=20_000, help="images that the batches are drawn from")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the raw side in a round")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the process's CPU time, for a machine that others use as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)

    torch.manual_seed(0)
    images = torch.randint(0, 2, (args.num_data, *X_SHAPE), dtype=torch.uint8).float()
    clock = process_time if args.cpu_time else perf_counter
    found = measure(images, args.batch, args.rounds, args.seconds, args.levels, clock)
    if args.json:
        print(json.dumps({name: round(spread.median, 4) for name, spread in found.items()}))
        return
    print(f"batch {args.batch}, {NETWORK}: raw PyTorch takes {found.pop('raw_ms').median:.1f} ms a step")
    for name, spread in found.items():
        print(f"    {name:10s} {spread:.2f} x raw")
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
