"""What a second stochastic layer costs: a training step and the evidence of the IWAE paper's two nets.

One layer is x - 200 - 200 - z (50); two layers are x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50), with the guide that
samples upward and the one that samples downward. All sides are compiled.

    python -m benchmarks.layers
    python -m benchmarks.layers --batch 20 --rounds 3 --seconds 0.1 --images 2 --samples 1000
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

import pyro_vae
from benchmarks.batches import NumberedBatches
from benchmarks.log_likelihood import matmul_peak
from benchmarks.timing import Side, Spread, interleaved, ratios
from benchmarks.training import X_DIM, in_fit
from pyro_vae.parts import make_pair

PAIRS = {
    "one_layer": {"guide": "mean_field"},
    "bottom_up": {"model": "hierarchical_vae", "guide": "bottom_up"},
    "top_down": {"model": "hierarchical_vae", "guide": "top_down"},
}
REFERENCE = "one_layer"
HIDDEN_DIMS, LATENT_DIM = (200, 200), 50
NUM_DATA = 4000


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return an untrained pair: what it learnt does not change what it costs."""
    return make_pair((X_DIM,), LATENT_DIM, HIDDEN_DIMS, **PAIRS[name])


def multiplications(modules: Iterable[nn.Module]) -> int:
    """Return how many multiplications the linear layers of modules take for one row."""
    layers = [part for module in modules for part in module.modules() if isinstance(part, nn.Linear)]
    return sum(layer.weight.numel() for layer in layers)


def sampled_multiplications(name: str) -> int:
    """Return those that each importance sample takes: of all networks but what works on x alone."""
    model, guide = pair(name)
    above = list(guide.guides)[1:] if name == "bottom_up" else []
    return multiplications([model, *above])


def steps(names: Sequence[str], batch_size: int, rounds: int, seconds: float, level: str) -> dict[str, Spread]:
    """Time compiled steps; returns milliseconds of the reference's, and the others' ratios to it."""
    pixels = torch.randint(0, 2, (NUM_DATA, X_DIM), dtype=torch.uint8).float()

    def side(name: str, count: int) -> Side:
        return in_fit(*pair(name), NumberedBatches(pixels[: count * batch_size], batch_size), level)

    count = NUM_DATA // batch_size
    trial = side(REFERENCE, count)
    trial(0)
    start = perf_counter()
    trial(1)
    count = max(1, min(count, round(count * seconds / (perf_counter() - start))))
    times = interleaved({name: side(name, count) for name in names}, rounds)
    reference = times.pop(REFERENCE)
    found = {f"{REFERENCE}_ms": Spread.of([1e3 * took / count for took in reference])}
    return found | {name: ratios(took, reference) for name, took in times.items()}


def evidence(names: Sequence[str], num_images: int, num_samples: int, rounds: int, level: str) -> dict[str, Spread]:
    """Time ``log_likelihood``; returns each pair's share of the matmul peak, and their ratios to the reference's."""
    x = torch.randint(0, 2, (num_images, X_DIM)).float()
    peaks: list[float] = []
    sides: dict[str, Callable[[int], object]] = {
        name: partial(_weigh, *pair(name), x, num_samples, level) for name in names
    }
    sides["peak"] = lambda _: peaks.append(matmul_peak())
    times = interleaved(sides, rounds)
    peaks = peaks[-rounds:]
    shares = {}
    for name in names:
        flops = 2 * sampled_multiplications(name) * num_images * num_samples
        shares[name] = [flops / took / peak for took, peak in zip(times[name], peaks, strict=True)]
    found = {f"{name} share of peak": Spread.of(share) for name, share in shares.items()}
    others = [name for name in names if name != REFERENCE]
    return found | {f"{name} / {REFERENCE}": ratios(shares[name], shares[REFERENCE]) for name in others}


def _weigh(model: nn.Module, guide: nn.Module, x: Tensor, num_samples: int, level: str, _: int) -> object:
    return pyro_vae.log_likelihood(model, guide, x, num_samples, progress=False, compile=level).per_datum


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.layers", description="What a second stochastic layer costs.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--batch", type=int, nargs="*", default=[20, 100], help="data a step")
    parser.add_argument("--seconds", type=float, default=0.4, help="of the one-layer side in a round of steps")
    parser.add_argument("--images", type=int, default=100, help="of the evidence; 0 leaves it out")
    parser.add_argument("--samples", type=int, default=5000, help="K")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--level", choices=["trace", "inductor"], default="inductor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    names = list(dict.fromkeys([REFERENCE, *args.pairs]))
    torch.manual_seed(0)
    rows = {f"step, batch {b}": partial(steps, names, b, args.rounds, args.seconds, args.level) for b in args.batch}
    if args.images:
        rows["evidence"] = partial(evidence, names, args.images, args.samples, args.rounds, args.level)
    found = {}
    for what, measure in rows.items():
        found[what] = measure()
        if not args.json:
            print(what)
            for name, spread in found[what].items():
                print(f"    {name:32s} {spread:.3f}", flush=True)
    if args.json:
        print(json.dumps({what: {name: s.median for name, s in row.items()} for what, row in found.items()}))


if __name__ == "__main__":
    main()
