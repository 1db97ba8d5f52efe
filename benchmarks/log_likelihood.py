"""How many importance samples a second ``pyro_vae.log_likelihood`` weighs, beside other ways to the same estimate.

python -m benchmarks.log_likelihood
python -m benchmarks.log_likelihood --level trace                the captured graph, not compiled
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

IN_JSON = (
    "vs_plain",
    "share_of_matmul_peak",
    "vs_one_trace_a_sample",
    "image_samples_per_second",
    "inductor",
    "inductor_with_compile",
)
"""Of what is measured, as medians of the rounds."""


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


def measure(
    num_images: int, num_samples: int, rounds: int, traces: int, chunks: Sequence[int], level: str
) -> tuple[dict[str, Spread], float]:
    """Time all sides.

    Args:
        num_images: images, all sides but the last.
        num_samples: K.
        rounds: how many count.
        traces: samples by one trace each, of one image.
        chunks: rows a decoder call that plain PyTorch shall try; the fastest is the opponent.
        level: of the side that all ratios but ``"inductor"`` are about.

    Returns:
        ``image_samples_per_second`` and ``matmul_peak`` in FLOP/s, and the ratios; the seconds by which the first
        compiled call took longer than the later ones.
    """
    torch.manual_seed(0)
    model, guide = importance.pair()
    x = importance.images(num_images)
    peaks: list[float] = []
    sides = {"ours": importance.ours(model, guide, x, num_samples, level)}
    sides["inductor"] = importance.ours(model, guide, x, num_samples, "inductor")
    start = perf_counter()
    sides["inductor"](0)
    first_call = perf_counter() - start
    sides |= {f"plain {rows}": importance.plain(model, guide, x, num_samples, rows) for rows in chunks}
    sides["traces"] = importance.one_trace_a_sample(model, guide, x, traces)
    sides["peak"] = lambda _: peaks.append(matmul_peak())
    seconds = interleaved(sides, rounds)

    best = min((f"plain {rows}" for rows in chunks), key=lambda name: median(seconds[name]))
    work = num_images * num_samples
    ours = [work / took for took in seconds["ours"]]
    compiled = [work / took for took in seconds["inductor"]]
    plain = [work / took for took in seconds[best]]
    traced = [traces / took for took in seconds["traces"]]
    peaks = peaks[-rounds:]
    flops = 2 * importance.DECODER_MULTIPLICATIONS
    found = {
        "image_samples_per_second": Spread.of(ours),
        "plain_image_samples_per_second": Spread.of(plain),
        "one_trace_image_samples_per_second": Spread.of(traced),
        "matmul_peak": Spread.of(peaks),
        "vs_plain": Spread.of([a / b for a, b in zip(ours, plain, strict=True)]),
        "vs_one_trace_a_sample": Spread.of([a / b for a, b in zip(ours, traced, strict=True)]),
        "share_of_matmul_peak": Spread.of([a * flops / b for a, b in zip(ours, peaks, strict=True)]),
        "inductor": Spread.of([a / b for a, b in zip(compiled, plain, strict=True)]),
        "inductor_with_compile": Spread.of([took / first_call for took in seconds[best]]),
    }
    return found, first_call - median(seconds["inductor"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.log_likelihood", description="Importance samples a second.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--traces", type=int, default=300, help="samples by one Pyro trace each, in a round")
    parser.add_argument("--chunks", type=int, nargs="+", default=[2500], help="rows a plain decoder call")
    parser.add_argument("--level", default="auto", help="what log_likelihood's compile is")
    parser.add_argument("--no-memory", action="store_true", help="do not start processes to measure memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)

    sizes = args.images, args.num_samples, args.rounds, args.traces, args.chunks
    found, compile_seconds = measure(*sizes, args.level)
    calls = [(20, args.num_samples, args.level), (20, 10 * args.num_samples, args.level)]
    calls += [(200, args.num_samples, args.level), (200, args.num_samples, "inductor")]
    memory = {} if args.no_memory else {call: peak_mb(*call) for call in calls}
    if args.json:
        summary: dict[str, float | None] = {name: round(found[name].median, 4) for name in IN_JSON}
        most = max(memory.values(), default=math.nan)
        summary |= {"compile_seconds": round(compile_seconds, 2), "peak_mb": None if math.isnan(most) else most}
        print(json.dumps(summary))
        return
    print(
        f"{args.images} images, K = {args.num_samples}, float32, decoder 50-200-200-784, {torch.get_num_threads()} ",
        end="",
    )
    print("threads; median (least to most) of rounds")
    _print_table(found, compile_seconds, args.level)
    for (n, k, level), mb in memory.items():
        print(f"    peak memory above the start, {level}, N = {n}, K = {k}: {mb:.0f} MB")


def _print_table(found: dict[str, Spread], compile_seconds: float, level: str) -> None:
    print(f"    image-samples/s, compile={level!r:10}             {found['image_samples_per_second']:,.0f}")
    print(f"    image-samples/s, plain PyTorch                {found['plain_image_samples_per_second']:,.0f}")
    print(f"    image-samples/s, one Pyro trace a sample      {found['one_trace_image_samples_per_second']:,.0f}")
    print(f"    speed / plain PyTorch                         {found['vs_plain']:.2f}")
    print(f"    speed / one Pyro trace a sample               {found['vs_one_trace_a_sample']:.0f}")
    peak = found["matmul_peak"].median / 1e9
    print(f"    share of the matmul peak ({peak:.0f} GFLOP/s)        {found['share_of_matmul_peak']:.2f}")
    print(f"    speed / plain PyTorch, compile='inductor'     {found['inductor']:.2f}")
    print(f"      its first call, {compile_seconds:.1f} s longer                {found['inductor_with_compile']:.2f}")


if __name__ == "__main__":
    main()
