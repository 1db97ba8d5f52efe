"""How long a training step takes under each guide, as a multiple of the mean-field guide's.

python -m benchmarks.guides
python -m benchmarks.guides --guides mean_field iaf "low_rank(rank=4)" --rounds 3
"""

import argparse
import json
from collections.abc import Sequence

import torch

from benchmarks.batches import NumberedBatches
from benchmarks.timing import Spread, interleaved, ratios
from benchmarks.training import LATENT_DIM, X_DIM, in_fit
from pyro_vae.parts import make_pair, part_names

LEVELS = ("off", "trace")
HIDDEN_DIMS = (200, 200)
REFERENCE = "mean_field"


def measure(names: Sequence[str], batch_size: int, steps: int, rounds: int) -> dict[str, dict[str, Spread]]:
    """Time every guide eagerly and traced.

    Args:
        names: guides, as :func:`pyro_vae.parts.make_pair` takes them.
        batch_size: data a step.
        steps: how many a round has.
        rounds: how many count.

    Returns:
        For each guide and level, the ratio to the mean-field guide's step at that level, and under ``"ms"`` its
        milliseconds at level ``"trace"``.
    """
    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (steps * batch_size, X_DIM), dtype=torch.uint8).float()
    batches = NumberedBatches(pixels, batch_size)
    names = list(dict.fromkeys([REFERENCE, *names]))
    sides = {}
    for name in names:
        pair = make_pair((X_DIM,), LATENT_DIM, HIDDEN_DIMS, guide=name, data=lambda: pixels)
        sides |= {(name, level): in_fit(*pair, batches, level) for level in LEVELS}
    seconds = interleaved({f"{name} {level}": side for (name, level), side in sides.items()}, rounds)
    found = {}
    for name in names:
        found[name] = {
            level: ratios(seconds[f"{name} {level}"], seconds[f"{REFERENCE} {level}"]) for level in LEVELS
        }  # fmt: skip
        found[name]["ms"] = Spread.of([1e3 * took / steps for took in seconds[f"{name} trace"]])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.guides", description="Training step under each guide.")
    parser.add_argument("--guides", nargs="+", default=sorted(part_names("guide")))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    found = measure(args.guides, args.batch, args.steps, args.rounds)
    if args.json:
        print(json.dumps({name: {k: round(s.median, 4) for k, s in row.items()} for name, row in found.items()}))
        return
    print(f"{'guide':24s} {'traced, x mean_field':28s} {'eager, x mean_field':28s} traced, ms")
    for name, row in found.items():
        traced, eager, ms = (format(row[key], ".2f") for key in ("trace", "off", "ms"))
        print(f"{name:24s} {traced:28s} {eager:28s} {ms}")


if __name__ == "__main__":
    main()
