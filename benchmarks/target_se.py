"""How many samples ``log_likelihood(target_se=...)`` draws, beside a fixed K that errs as much.

python -m benchmarks.target_se
python -m benchmarks.target_se --target 0.3 --latent-dim 20
python -m benchmarks.target_se --guide iaf --images 100 --repeats 4

Both sides are run several times, and their errors are differences to a long run with other seeds, so that a bias counts
as an error. Two errors are compared: that of the mean over images, sqrt(bias^2 + variance), and the root mean square
error that nine in ten images are below, which is what a target for each image is about. For either the fixed K is the
one that errs as much: errors are computed at many K, the first K samples of one stream, and interpolated.

What can be gained: where every error falls as V_i / K_i, a K in proportion to V_i is as good for the mean as the same K
for all, and the best, in proportion to sqrt(V_i), needs mean(sqrt V)^2 / mean(V) of the samples. More is gained only
where few images have heavy tails: those take the budget, and with it at least their share of its samples. A third side
says how far that goes: it is told every V_i, by the long run, and spends nothing on finding out.
"""

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pyro_vae
from pyro_vae.parts import make_pair

LONG = 10
"""Times the budget that the run has which stands for the truth: its own bias is a tenth of that of the budget."""

GRID = 1.25
"""The factor from one fixed K to the next; between two of them the error is a power of K."""

ROWS = 5000
"""Decoder rows a call on the fixed side."""

RESAMPLES = 200
"""Sets of images, drawn from those that there are with replacement, that say how far to trust a ratio."""

Pair = tuple[Any, Any]


def trained(guide: str, latent_dim: int, epochs: int) -> tuple[Pair, Tensor]:
    """Return a small VAE fitted to the digits that are installed with the package, and test images."""
    data = pyro_vae.load_data("mnist-5k", seed=0)
    torch.manual_seed(0)
    pair = make_pair(data.x_shape, latent_dim, (200, 200), guide=guide, data=partial(data.observe, data.train))
    pair[0].likelihood.initialize_bias(data.train_mean())
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs, eta_min=2e-5)
    pyro_vae.fit(*pair, data, optimizer=adam, scheduler=cosine, epochs=epochs, seed=0, progress=False)
    return pair, data.test


def fixed(pair: Pair, x: Tensor, sizes: Sequence[int], seed: int, rows: int = ROWS) -> Tensor:
    """Return log p^(x) from the first K of one stream of samples, for each K of ``sizes``, ``(len(sizes), N)``."""
    torch.manual_seed(seed)
    total, drawn, found = torch.full((len(x),), -math.inf, dtype=torch.float64), 0, []
    for size in sizes:
        while drawn < size:
            count = min(max(1, rows // len(x)), size - drawn)
            with torch.no_grad():
                weights = pyro_vae.log_weights(*pair, x, count).double()
            total, drawn = torch.logaddexp(total, weights.logsumexp(0)), drawn + count
        found.append(total - math.log(drawn))
    return torch.stack(found)


def error_of_mean(error: Tensor) -> float:
    """Return the root mean square error of the mean over images, its bias included.

    Args:
        error: of each image in each repetition, ``(repeats, N)``. The bias is the mean of all, whose square is taken
            less what the repetitions leave it to chance; the variance is the images' own, pooled.
    """
    repeats, n = error.shape
    variance = (error.var(0).sum() / n**2).item()
    return math.sqrt(max(0.0, error.mean().item() ** 2 - variance / repeats) + variance)


def error_of_worst(error: Tensor) -> float:
    """Return what nine in ten images' root mean square error, bias included, is below."""
    return error.square().mean(0).sqrt().quantile(0.9).item()


def equal_size(sizes: Sequence[int], errors: Sequence[float], target: float) -> float:
    """Return the K at which a fixed K errs by ``target``: the last crossing, as a power between two sizes.

    The largest size where the fixed K errs more at every size, the smallest where it errs less.

    >>> equal_size([100, 400, 1600], [0.2, 0.1, 0.05], 0.1)
    400.0
    """
    if errors[-1] >= target:
        return float(sizes[-1])
    above = [index for index, error in enumerate(errors) if error >= target]
    if not above:
        return float(sizes[0])
    low = above[-1]
    share = math.log(errors[low] / target) / math.log(errors[low] / errors[low + 1])
    return sizes[low] * (sizes[low + 1] / sizes[low]) ** share


def variances_of(run: pyro_vae.evaluation.LogLikelihood) -> Tensor:
    """Return the variance of one weight of each image, relative to its squared mean, ``(N,)``: K s.e.^2."""
    return run.num_samples * run.standard_errors.square()


def told(curves: Tensor, sizes: Sequence[int], variances: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Return samples ``(N,)`` and errors ``(repeats, N)`` of a side that knows each image's variance beforehand.

    Args:
        curves: errors of the fixed side at each size, ``(repeats, len(sizes), N)``.
        sizes: in ascending order; each image takes the least that is at least V_i / target^2, or the largest.
        variances: V_i of one weight, relative to its squared mean, ``(N,)``.
        target: standard error of each image, in nats.

    >>> samples, error = told(torch.arange(6.0).reshape(1, 3, 2), [10, 20, 30], torch.tensor([0.11, 9.0]), 0.1)
    >>> samples.tolist(), error.tolist()
    ([20.0, 30.0], [[2.0, 5.0]])
    """
    chosen = torch.searchsorted(torch.tensor(sizes).double(), variances.double() / target**2).clamp(max=len(sizes) - 1)
    return torch.tensor(sizes).double()[chosen], curves[:, chosen, torch.arange(len(chosen))]


def compare(samples: Tensor, error: Tensor, curves: Tensor, sizes: Sequence[int]) -> dict[str, float]:
    """Return what the adaptive side draws and how it errs, and the fixed K that errs as much.

    Args:
        samples: drawn for each image, ``(N,)``.
        error: of the adaptive side, ``(repeats, N)``.
        curves: errors of the fixed side at each size, ``(repeats, len(sizes), N)``.
        sizes: in ascending order.
    """
    found = {"samples": samples.mean().item()}
    for name, of in (("mean", error_of_mean), ("worst", error_of_worst)):
        size = equal_size(sizes, [of(curves[:, index]) for index in range(len(sizes))], of(error))
        found |= {f"{name}_error": of(error), f"{name}_k": size, f"{name}_ratio": found["samples"] / size}
    return found


def _with_intervals(samples: Tensor, error: Tensor, curves: Tensor, sizes: Sequence[int]) -> dict[str, float]:
    """Return what :func:`compare` does, and what holds 90 % of each ratio under images drawn anew from these."""
    torch.manual_seed(0)
    drawn = [torch.randint(len(samples), (len(samples),)) for _ in range(RESAMPLES)]
    others = [compare(samples[i], error[:, i], curves[:, :, i], sizes) for i in drawn]
    found = compare(samples, error, curves, sizes)
    for name in ("mean_ratio", "worst_ratio"):
        low, high = torch.tensor([other[name] for other in others]).quantile(torch.tensor([0.05, 0.95])).tolist()
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def measure(pair: Pair, x: Tensor, budget: int, target: float, repeats: int) -> dict[str, float]:
    """Draw both sides, and a long run that stands for the truth.

    Returns:
        ``samples`` an image, those that decide among them; for the mean and for the worst images the adaptive side's
        ``error``, the fixed ``k`` of that error, and the ``ratio`` of samples to it, with the ``low`` and ``high`` that
        hold 90 % of its values under images drawn anew from these; the same of a side that is told every variance,
        after ``told_``; biases in nats, and what is stated.
    """
    evaluate = partial(pyro_vae.log_likelihood, *pair, x, progress=False)
    long = evaluate(LONG * budget, seed=10**6)
    truth = long.per_datum
    adaptive = [evaluate(budget, target_se=target, seed=seed) for seed in range(repeats)]
    sizes = sorted({round(budget / GRID**power) for power in range(25)})
    curves = torch.stack([fixed(pair, x, sizes, 1000 + seed) for seed in range(repeats)]) - truth
    error = torch.stack([run.per_datum for run in adaptive]) - truth
    samples = torch.stack([run.samples_per_datum + run.num_deciding for run in adaptive]).double().mean(0)
    found = _with_intervals(samples, error, curves, sizes)
    known = _with_intervals(*told(curves, sizes, variances_of(long), target), curves, sizes)
    found |= {f"told_{name}": value for name, value in known.items()}
    found |= {"bias": error.mean().item(), "fixed_bias": curves[:, -1].mean().item()}
    for name in ("bias", "reached", "flagged"):
        value = torch.stack([getattr(run, name) for run in adaptive]).double().mean().item()
        found["stated_bias" if name == "bias" else name] = value
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.target_se", description="Samples to a target, beside a fixed K.")
    parser.add_argument("--guide", default="mean_field")
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--budget", type=int, default=5000)
    parser.add_argument("--target", type=float, default=0.1, help="standard error of each image, in nats")
    parser.add_argument("--repeats", type=int, default=10, help="runs of either side")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    pair, test = trained(args.guide, args.latent_dim, args.epochs)
    found = measure(pair, test[: args.images], args.budget, args.target, args.repeats)
    if args.json:
        print(json.dumps({name: round(value, 5) for name, value in found.items()}))
        return
    print(f"{args.images} test images, {args.guide}, z of {args.latent_dim} dims, budget {args.budget}, ", end="")
    print(f"{args.repeats} runs")
    print(f"    target s.e. {args.target:g}, reached for {100 * found['reached']:.0f} %; k-hat above its threshold for "
          f"{100 * found['flagged']:.0f} %")  # fmt: skip
    print(f"    bias in nats: {found['bias']:.4f}, stated {found['stated_bias']:.4f}; "
          f"of K = {args.budget}: {found['fixed_bias']:.4f}")  # fmt: skip
    for side, says in (("", "samples an image, deciding ones included"), ("told_", "the same, told every variance")):
        print(f"    {says:46s} {found[f'{side}samples']:.0f}")
        for name, what in (("mean", "the mean over images"), ("worst", "nine in ten images")):
            key = f"{side}{name}"
            print(f"    {what:22s} errs by {found[f'{key}_error']:.4f}: as K = {found[f'{key}_k']:.0f}, "
                  f"samples / K = {found[f'{key}_ratio']:.2f} ({found[f'{key}_ratio_low']:.2f} to "
                  f"{found[f'{key}_ratio_high']:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
