"""How long a training step takes under each guide, as a multiple of the mean-field guide's as Pyro runs it.

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
from pyro_vae.graphs.levels import LEVELS
from pyro_vae.parts import make_pair, part_names

HIDDEN_DIMS = (200, 200)
REFERENCE = "mean_field"


def measure(
    names: Sequence[str], levels: Sequence[str], batch_size: int, steps: int, rounds: int
) -> dict[str, dict[str, Spread]]:
    """Time every guide at every level.

    Args:
        names: guides, as :func:`pyro_vae.parts.make_pair` takes them.
        levels: as ``compile`` of ``pyro_vae.fit``.
        batch_size: data a step.
        steps: how many a round has.
        rounds: how many count.

    Returns:
        For each guide and level the ratio to the mean-field guide's step at level "off", and for the mean-field guide
        under ``"ms"`` the milliseconds of that.
    """
    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (steps * batch_size, X_DIM), dtype=torch.uint8).float()
    batches = NumberedBatches(pixels, batch_size)
    names = list(dict.fromkeys([REFERENCE, *names]))
    levels = list(dict.fromkeys(["off", *levels]))
    sides = {}
    for name in names:
        pair = make_pair((X_DIM,), LATENT_DIM, HIDDEN_DIMS, guide=name, data=lambda: pixels)
        sides |= {f"{name} {level}": in_fit(*pair, batches, level) for level in levels}
    seconds = interleaved(sides, rounds)
    eager = seconds[f"{REFERENCE} off"]
    found = {name: {level: ratios(seconds[f"{name} {level}"], eager) for level in levels} for name in names}
    found[REFERENCE]["ms"] = Spread.of([1e3 * took / steps for took in eager])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.guides", description="Training step under each guide.")
    parser.add_argument("--guides", nargs="+", default=sorted(part_names("guide")))
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=["off", "trace", "inductor"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    found = measure(args.guides, args.levels, args.batch, args.steps, args.rounds)
    if args.json:
        print(json.dumps({name: {k: round(s.median, 4) for k, s in row.items()} for name, row in found.items()}))
        return
    ms = found[REFERENCE].pop("ms")
    print(f"x the {REFERENCE} step as Pyro runs it ({ms:.2f} ms)")
    for name, row in found.items():
        print(f"{name:24s}" + "".join(f"{level} {spread:.2f}    " for level, spread in row.items()))


if __name__ == "__main__":
    main()
