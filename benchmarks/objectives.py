"""How long a step of the importance-weighted objectives takes, as a multiple of the same written by hand.

python -m benchmarks.objectives
python -m benchmarks.objectives --level off --particles 5 --rounds 3
"""

import argparse
import json
from collections.abc import Callable, Sequence

import torch
from pyro.infer import ELBO
from torch import Tensor

from benchmarks.batches import NumberedBatches
from benchmarks.raw_particles import RawParticles
from benchmarks.timing import Side, Spread, interleaved, ratios
from benchmarks.training import LATENT_DIM, LEARNING_RATE, X_DIM, ours
from pyro_vae.graphs.levels import LEVELS
from pyro_vae.objectives import IWAE, DReG

HIDDEN_DIMS = (200, 200)
Loss = Callable[[RawParticles, Tensor], tuple[Tensor, Tensor]]
OBJECTIVES: dict[str, tuple[Callable[[int], ELBO], Loss]] = {
    "IWAE": (IWAE, RawParticles.iwae),
    "DReG": (DReG, RawParticles.dreg),
}
"""Ours, of K, and the hand-written one."""


def by_hand(batches: NumberedBatches, num_particles: int, loss_function: Loss) -> Side:
    """Return the hand-written step with one fused Adam."""
    vae = RawParticles.new(X_DIM, LATENT_DIM, HIDDEN_DIMS, num_particles)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)

    def epoch(index: int) -> float:
        total = 0.0
        for x in batches.images(index):
            optimizer.zero_grad()
            loss, surrogate = loss_function(vae, x)
            surrogate.backward()
            optimizer.step()
            total += loss.item()
        return total

    return epoch


def measure(level: str, batch_size: int, num_particles: int, steps: int, rounds: int) -> dict[str, dict[str, Spread]]:
    """Time each objective and its hand-written equivalent.

    Args:
        level: as ``compile`` of ``pyro_vae.fit``.
        batch_size: data a step.
        num_particles: K.
        steps: how many a round has.
        rounds: how many count.

    Returns:
        For each objective the hand-written step's milliseconds under ``"raw_ms"``, and our ratio to it under the
        level's name.
    """
    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (steps * batch_size, X_DIM), dtype=torch.uint8).float()
    batches = NumberedBatches(pixels, batch_size)
    sides = {}
    for name, (objective, loss_function) in OBJECTIVES.items():
        sides[f"{name} raw"] = by_hand(batches, num_particles, loss_function)
        sides[f"{name} ours"] = ours(batches, HIDDEN_DIMS, level, objective(num_particles))
    seconds = interleaved(sides, rounds)
    return {
        name: {
            "raw_ms": Spread.of([1e3 * took / steps for took in seconds[f"{name} raw"]]),
            level: ratios(seconds[f"{name} ours"], seconds[f"{name} raw"]),
        }
        for name in OBJECTIVES
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.objectives", description="Steps of importance-weighted bounds.")
    parser.add_argument("--level", choices=LEVELS, default="trace")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--particles", type=int, default=50, help="K")
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    found = measure(args.level, args.batch, args.particles, args.steps, args.rounds)
    if args.json:
        print(json.dumps({name: {k: round(s.median, 4) for k, s in row.items()} for name, row in found.items()}))
        return
    for name, row in found.items():
        by_hand_ms = format(row["raw_ms"], ".2f")
        print(f"{name}({args.particles}), batch {args.batch}, {args.level}: {row[args.level]:.2f} x raw PyTorch, which")
        print(f"    takes {by_hand_ms} ms a step")


if __name__ == "__main__":
    main()
