"""How long a leapfrog step of annealed importance sampling takes, beside a bare decoder forward and backward.

All sides see the same rows, chains x images, of the same decoder. Timed is a whole transition (momentum, leapfrog
steps, acceptance), divided by its number of steps; the others do a decoder pass for each of these steps.

    python -m benchmarks.leapfrog
    python -m benchmarks.leapfrog --images 2 --chains 4 --rounds 2 --steps 2 --no-compile
"""

import argparse
import json
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.importance import DECODER_MULTIPLICATIONS, LATENT_DIM, LOG_2PI, images, pair
from benchmarks.timing import Side, Spread, interleaved, ratios
from pyro_vae.evaluation.annealing.density_path import Path
from pyro_vae.evaluation.annealing.hmc import start, transition
from pyro_vae.graphs.levels import TermDraws
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood

REFERENCE = "decoder"
TEMPERATURE, STEP_SIZE = 0.5, 0.01
"""What they are changes no cost; few trajectories diverge."""


def ours(model: VAE, x: Tensor, num_chains: int, num_steps: int, level: str) -> Side:
    """Return one transition from the prior's draws, at a level of ``compile``."""
    path = Path("leapfrog", model, None, x)
    u, other = path.draw(x, num_chains), path.draw(x, num_chains)
    blocks = (x, u), (1 - x, other)
    draws = TermDraws("leapfrog", lambda *v: path.at(v[:-1], v[-1]), blocks, [model], level, 10_000, True, varying=1)
    at = draws.on(x)
    chains, size = start(at, u), torch.full((num_chains, len(x)), STEP_SIZE)

    def side(_: int) -> None:
        with torch.no_grad():
            transition(at, chains, size, TEMPERATURE, num_steps)

    return side


def bare(decoder: nn.Module, z: Tensor, num_steps: int) -> Side:
    """Return decoder passes with a given gradient of the logits, back to z: no likelihood, no prior, no dynamics."""
    z = z.clone().requires_grad_()
    slope = torch.randn_like(decoder(z)).detach()

    def side(_: int) -> None:
        for _ in range(num_steps):
            torch.autograd.grad(decoder(z), z, slope)

    return side


def by_hand(decoder: nn.Module, x: Tensor, z: Tensor, num_steps: int) -> Side:
    """Return log p(x, z) and its gradient as one writes them by hand in PyTorch, eager."""

    def side(_: int) -> None:
        for _ in range(num_steps):
            u = z.detach().requires_grad_()
            logits = decoder(u)
            entropy = binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
            log_joint = -entropy - 0.5 * (u.square() + LOG_2PI).sum(-1)
            torch.autograd.grad(log_joint.sum(), u)

    return side


def measure(num_images: int, num_chains: int, num_steps: int, rounds: int, levels: Sequence[str]) -> dict[str, Spread]:
    """Time all sides.

    Args:
        num_images: images of a piece.
        num_chains: chains of each.
        num_steps: leapfrog steps of a transition, and decoder passes of the other sides.
        rounds: how many count.
        levels: of ``compile`` that ours shall run at.

    Returns:
        ``decoder_ms``, a bare pass's milliseconds; of ``by_hand`` and each level the ratio to it; and ``gflops`` of the
        bare pass.
    """
    torch.manual_seed(0)
    model, _ = pair()
    # A bare pass by autograd works out no gradient of the parameters either.
    model.requires_grad_(False)
    x = images(num_images)
    decoder = cast(BernoulliLikelihood, model.likelihood).decoder
    z = torch.randn(num_chains, num_images, LATENT_DIM)
    sides = {REFERENCE: bare(decoder, z, num_steps), "by_hand": by_hand(decoder, x, z, num_steps)}
    sides |= {level: ours(model, x, num_chains, num_steps, level) for level in levels}
    seconds = interleaved(sides, rounds)
    reference = seconds.pop(REFERENCE)
    # Forward, and backward to the input alone: two FLOPs for each multiplication and its addition.
    flops = 2 * 2 * DECODER_MULTIPLICATIONS * num_chains * num_images * num_steps
    found = {"decoder_ms": Spread.of([1e3 * took / num_steps for took in reference])}
    found["gflops"] = Spread.of([flops / took / 1e9 for took in reference])
    return found | {name: ratios(took, reference) for name, took in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.leapfrog", description="A leapfrog step, in decoder passes.")
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="leapfrog steps of a transition")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled graph")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    levels = ["off", "trace"] if args.no_compile else ["off", "trace", "inductor"]
    found = measure(args.images, args.chains, args.steps, args.rounds, levels)
    if args.json:
        print(json.dumps({name: round(spread.median, 4) for name, spread in found.items()}))
        return
    rows, threads = args.images * args.chains, torch.get_num_threads()
    print(f"{rows} rows, float32, decoder 50-200-200-784, {threads} threads; median (least to most) of rounds")
    gflops = found["gflops"].median
    print(f"    bare decoder, forward and backward   {found['decoder_ms']:.2f} ms, {gflops:.0f} GFLOP/s")
    print(f"    log p(x, z) and gradient by hand     {found['by_hand']:.2f} x that")
    for level in levels:
        print(f"    leapfrog step, {level:22}{found[level]:.2f} x that")


if __name__ == "__main__":
    main()
