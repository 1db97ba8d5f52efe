"""How many importance samples a second ``pyro_vae.log_likelihood`` weighs, beside other ways to the same estimate.

python -m benchmarks.log_likelihood
python -m benchmarks.log_likelihood --chunks 1000 2500 5000      plain PyTorch at the best of these
python -m benchmarks.log_likelihood --images 2 --rounds 2 --traces 20 --no-memory
"""

import argparse
import json
import math
from collections.abc import Sequence
from statistics import median
from time import perf_counter

import torch

from benchmarks import importance
from benchmarks.peak_memory import peak_mb
from benchmarks.timing import Spread, interleaved

MATMULS = ((1024, 1024, 1024), (2048, 2048, 2048), (2500, 200, 784))
"""(rows, inner, columns) whose best rate is called the matmul peak: two squares, and the decoder's largest."""


def matmul_peak(seconds: float = 0.05) -> float:
    """Return the best rate of float32 matmuls seen in any one of them, in FLOP/s."""
    best = 0.0
    for rows, inner, columns in MATMULS:
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        out = torch.empty(rows, columns)
        stop = perf_counter() + seconds
        while (start := perf_counter()) < stop:
            torch.mm(left, right, out=out)
            best = max(best, 2 * rows * inner * columns / (perf_counter() - start))
    return best


def measure(num_images: int, num_samples: int, rounds: int, traces: int, chunks: Sequence[int]) -> dict[str, Spread]:
    """Time all sides.

    Args:
        num_images: images, all sides but the last.
        num_samples: K.
        rounds: how many count.
        traces: samples by one trace each, of one image.
        chunks: rows a decoder call that plain PyTorch shall try; the fastest is the opponent.

    Returns:
        ``image_samples_per_second`` and ``matmul_peak`` in FLOP/s, and the ratios.
    """
    torch.manual_seed(0)
    model, guide = importance.pair()
    x = importance.images(num_images)
    peaks: list[float] = []
    sides = {"ours": importance.ours(model, guide, x, num_samples)}
    sides |= {f"plain {rows}": importance.plain(model, guide, x, num_samples, rows) for rows in chunks}
    sides["traces"] = importance.one_trace_a_sample(model, guide, x, traces)
    sides["peak"] = lambda _: peaks.append(matmul_peak())
    seconds = interleaved(sides, rounds)

    best = min((f"plain {rows}" for rows in chunks), key=lambda name: median(seconds[name]))
    work = num_images * num_samples
    ours = [work / took for took in seconds["ours"]]
    plain = [work / took for took in seconds[best]]
    traced = [traces / took for took in seconds["traces"]]
    peaks = peaks[-rounds:]
    flops = 2 * importance.DECODER_MULTIPLICATIONS
    return {
        "image_samples_per_second": Spread.of(ours),
        "plain_image_samples_per_second": Spread.of(plain),
        "one_trace_image_samples_per_second": Spread.of(traced),
        "matmul_peak": Spread.of(peaks),
        "vs_plain": Spread.of([a / b for a, b in zip(ours, plain, strict=True)]),
        "vs_one_trace_a_sample": Spread.of([a / b for a, b in zip(ours, traced, strict=True)]),
        "share_of_matmul_peak": Spread.of([a * flops / b for a, b in zip(ours, peaks, strict=True)]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.log_likelihood", description="Importance samples a second.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--traces", type=int, default=300, help="samples by one Pyro trace each, in a round")
    parser.add_argument("--chunks", type=int, nargs="+", default=[2500], help="rows a plain decoder call")
    parser.add_argument("--no-memory", action="store_true", help="do not start processes to measure memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)

    found = measure(args.images, args.num_samples, args.rounds, args.traces, args.chunks)
    calls = [(20, args.num_samples), (20, 10 * args.num_samples), (200, args.num_samples)]
    memory = {} if args.no_memory else {call: peak_mb(*call) for call in calls}
    if args.json:
        names = ("vs_plain", "share_of_matmul_peak", "vs_one_trace_a_sample", "image_samples_per_second")
        summary: dict[str, float | None] = {name: round(found[name].median, 4) for name in names}
        most = max(memory.values(), default=math.nan)
        print(json.dumps(summary | {"peak_mb": None if math.isnan(most) else most}))
        return
    _print_table(found, memory, args.images, args.num_samples)


def _print_table(
    found: dict[str, Spread], memory: dict[tuple[int, int], float], num_images: int, num_samples: int
) -> None:
    print(f"{num_images} images, K = {num_samples}, float32, decoder 50-200-200-784; median (least to most) of rounds")
    print(f"    image-samples/s, pyro_vae.log_likelihood   {found['image_samples_per_second']:,.0f}")
    print(f"    image-samples/s, plain PyTorch             {found['plain_image_samples_per_second']:,.0f}")
    print(f"    image-samples/s, one Pyro trace a sample   {found['one_trace_image_samples_per_second']:,.0f}")
    print(f"    speed / plain PyTorch                      {found['vs_plain']:.2f}")
    print(f"    speed / one Pyro trace a sample            {found['vs_one_trace_a_sample']:.0f}")
    peak = found["matmul_peak"].median / 1e9
    print(f"    share of the matmul peak ({peak:.0f} GFLOP/s)     {found['share_of_matmul_peak']:.2f}")
    for (n, k), mb in memory.items():
        print(f"    peak memory above the start, N = {n}, K = {k}: {mb:.0f} MB")


if __name__ == "__main__":
    main()
