"""Peak memory of one ``log_likelihood`` call above what the process held before it, in a process of its own.

    python -m benchmarks.peak_memory --images 20 --num-samples 5000      prints MB
    python -m benchmarks.peak_memory --pair top_down                     of a net of `benchmarks.layers`

Linux counts the pages a process holds (VmRSS) and the most it ever held (VmHWM). The start is VmRSS when the
imports are done, model, guide and images exist, and the libraries have set themselves up by a call on one image and
a graph of one addition (for ``--level inductor`` compiled); the high-water mark is reset there, and read again after
the call. ``ru_maxrss`` would not do: a child process inherits its parent's, and what the imports took once would hide
what the call takes. The C++ compiler is a process of its own and is not counted.
"""

import argparse
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_HIGH_WATER_MARK = "5"
"""See proc(5), clear_refs."""


def peak_mb(images: int, num_samples: int, level: str = "auto") -> float:
    """Return the peak above the start of a call in a fresh process, in MB; NaN where the system is not Linux."""
    if not STATUS.exists():
        return float("nan")
    arguments = ["--images", str(images), "--num-samples", str(num_samples), "--level", level]
    command = [sys.executable, "-m", "benchmarks.peak_memory", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(images: int, num_samples: int, level: str, pair: str) -> float:
    import torch

    from benchmarks import importance, layers
    from pyro_vae.graphs.capture import capture
    from pyro_vae.graphs.compiled_draws import native_draws

    model, guide = layers.pair(pair)
    x = importance.images(images)
    importance.ours(model, guide, x[:1], 30)(0)
    addition = capture(lambda t: [t + 1], [torch.zeros(1)], [torch.ones(1)])
    if level == "inductor":
        native_draws(addition, [torch.zeros(1)])
    if RESET.exists():
        RESET.write_text(RESET_HIGH_WATER_MARK)
    start = _held("VmRSS")
    importance.ours(model, guide, x, num_samples, level)(0)
    return (_held("VmHWM") - start) / 1e6


def _held(counter: str) -> int:
    """Return one of the kernel's counters of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(counter))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Measure in this process and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.peak_memory", description="Peak memory of one call, in MB.")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--level", default="auto", help="what log_likelihood's compile is")
    parser.add_argument("--pair", default="one_layer", help="one_layer, bottom_up or top_down: see benchmarks.layers")
    args = parser.parse_args()
    print(f"{_measure(args.images, args.num_samples, args.level, args.pair):.1f}")


if __name__ == "__main__":
    main()
