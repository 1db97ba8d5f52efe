"""How the time of a step, and the speed of evidence, grow with one size at a time, from a common base point.

python -m benchmarks.scaling --figure scaling.png
python -m benchmarks.scaling --axes batch num_flows --rounds 3
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

import pyro_vae
from benchmarks.batches import NumberedBatches
from benchmarks.timing import Side, Spread, interleaved
from benchmarks.training import X_DIM, in_fit
from pyro_vae.graphs.levels import LEVELS
from pyro_vae.objectives import IWAE
from pyro_vae.parts import make_pair

MILLISECONDS, SPEED = "ms a step", "image-samples/s"


@dataclass(frozen=True)
class Point:
    """What is timed: every size that an axis can vary, at its base value."""

    latent_dim: int = 50
    hidden: int = 200
    """Width of each of the two hidden layers."""
    batch: int = 128
    particles: int = 0
    """K of IWAE; 0 for ``Trace_ELBO``."""
    num_flows: int = 0
    """Layers of an IAF guide; 0 for the mean-field one."""
    images: int = 20
    num_samples: int = 2000

    def step(self, steps: int, level: str) -> Side:
        """Return so many training steps."""
        pixels = torch.randint(0, 2, (steps * self.batch, X_DIM), dtype=torch.uint8).float()
        guide = f"iaf(num_flows={self.num_flows})" if self.num_flows else "mean_field"
        pair = make_pair((X_DIM,), self.latent_dim, (self.hidden, self.hidden), guide=guide)
        objective = IWAE(self.particles) if self.particles else None
        return in_fit(*pair, NumberedBatches(pixels, self.batch), level, objective)

    def evidence(self) -> Side:
        """Return one whole call of ``log_likelihood``."""
        model, guide = make_pair((X_DIM,), self.latent_dim, (self.hidden, self.hidden))
        x = torch.randint(0, 2, (self.images, X_DIM), dtype=torch.uint8).float()
        return lambda _: pyro_vae.log_likelihood(model, guide, x, self.num_samples, progress=False)


@dataclass(frozen=True)
class Axis:
    """A size that is varied, its values, and what is timed there."""

    label: str
    values: Sequence[int]
    varies: str
    unit: str = MILLISECONDS
    base: Point = field(default_factory=Point)

    def measure(self, values: Sequence[int], steps: int, rounds: int, level: str) -> dict[int, Spread]:
        """Time all values in turn; return milliseconds a step, or image-samples a second, at each."""
        points = {value: replace(self.base, **{self.varies: value}) for value in values}
        timed = self.unit == MILLISECONDS
        sides = {str(v): point.step(steps, level) if timed else point.evidence() for v, point in points.items()}
        seconds = interleaved(sides, rounds)
        if timed:
            return {v: Spread.of([1e3 * took / steps for took in seconds[str(v)]]) for v in points}
        return {v: Spread.of([p.images * p.num_samples / took for took in seconds[str(v)]]) for v, p in points.items()}


AXES = {
    "latent_dim": Axis("dimension of z", (2, 10, 50, 200), "latent_dim"),
    "hidden": Axis("width of 2 hidden layers", (50, 100, 200, 400, 800), "hidden"),
    "batch": Axis("data a batch", (16, 64, 256, 1024), "batch"),
    "particles": Axis("K of IWAE, 20 data a batch", (1, 5, 20, 50), "particles", base=Point(batch=20)),
    "num_flows": Axis("layers of IAF", (1, 2, 4, 8), "num_flows"),
    "images": Axis("images N, K = 2000", (1, 5, 20, 100), "images", SPEED),
    "num_samples": Axis("samples K, N = 20", (20, 200, 2000, 20000), "num_samples", SPEED),
}
Found = dict[str, dict[int, Spread]]


def draw(found: Found) -> Figure:
    """Draw a panel for each axis, both scales logarithmic, bars from the least to the most of the rounds."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    for number, (name, spreads) in enumerate(found.items()):
        panel = figure.add_subplot(rows, columns, number + 1)
        middle = [spread.median for spread in spreads.values()]
        below = [spread.median - spread.low for spread in spreads.values()]
        above = [spread.high - spread.median for spread in spreads.values()]
        panel.errorbar(list(spreads), middle, [below, above], marker="o", markersize=4, capsize=3)
        panel.set(xscale="log", yscale="log", xlabel=AXES[name].label, ylabel=AXES[name].unit)
        panel.set_xticks(list(spreads), [str(value) for value in spreads])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and draw where that is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description="A step's time, and evidence's speed.")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--values", type=int, nargs="+", help="of every axis, in place of its own")
    parser.add_argument("--level", choices=LEVELS, default="trace")
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--figure", type=Path, help="write a figure here")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    found: Found = {}
    for name in args.axes:
        axis = AXES[name]
        found[name] = axis.measure(args.values or axis.values, args.steps, args.rounds, args.level)
        if not args.json:
            print(f"{axis.label}: {axis.unit}")
            for value, spread in found[name].items():
                print(
                    f"    {value:6d}  {spread:,.2f}" if axis.unit == MILLISECONDS else f"    {value:6d}  {spread:,.0f}"
                )
    if args.json:
        rows = {name: {str(v): round(s.median, 4) for v, s in row.items()} for name, row in found.items()}
        print(json.dumps(rows))
    if args.figure is not None:
        draw(found).savefig(args.figure)


if __name__ == "__main__":
    main()
