"""Which posterior approximation is best, by how many nats, and how sure is that? A grid of runs, one report.

The command line does the same: pyro-vae compare examples/grids/small.yaml --out runs/small --jobs 2. Here it is in
Python, with one figure more: for models with two latent dims, q(z | x) of each guide over the true posterior of its
own model, which a grid of points gives in the plane (--grid examples/grids/plane.yaml).
"""

import argparse
import sys
from pathlib import Path

import torch
from joblib import cpu_count
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from torch import Tensor

import pyro_vae
from pyro_vae.cli.scripts import RUNS, SMOKE, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.comparison import CellResult, Comparison, Grid, load_cell
from pyro_vae.report.page import write_report

NAME = "compare_posteriors"
GRIDS = Path(__file__).parent / "grids"
DRAWS = 4000
"""Draws of q behind a contour."""
SIDE = 60
"""Points along each axis of the plane."""
SMALL = {
    "common": {
        "data": "mnist-5k",
        "latent_dim": 2,
        "hidden_dims": [10],
        "epochs": 1,
        "num_test": 20,
        "num_samples": 30,
    },
    "grid": {"guide": ["mean_field", "full_rank"], "seed": [0, 1]},
}


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Compare posterior approximations: a grid of runs, paired statistics, a report.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--grid", type=Path, default=GRIDS / "small.yaml", help="a grid in YAML; examples/grids has some")
    add("--jobs", type=int, default=cpu_count(), help="processes; the cores are divided among them")
    add("--out", type=Path, default=argparse.SUPPRESS, help="folder; what is there is not done again (default: "
        f"{RUNS / NAME}; with --smoke {SMOKE / NAME})")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bars")
    add("--trust", action="store_true", help="import classes of your own that the grid names")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    args.out = getattr(args, "out", (SMOKE if args.smoke else RUNS) / NAME)
    return args


def main() -> None:
    """Run the grid, print what it says, write the report."""
    args = parse_args()
    grid = Grid.of(SMALL) if args.smoke else Grid.read(args.grid, trust=args.trust)
    comparison = pyro_vae.compare(grid, args.out, jobs=args.jobs, progress=False if args.quiet else None)
    print(comparison)
    if comparison.finished and all(result.cell.latent_dim == 2 for result in comparison.finished):
        figure = args.out / "posteriors.png"
        posteriors(comparison).savefig(figure)
        print(f"\nq(z | x) over p(z | x): {figure}")
    print(f"\nThe report: {write_report(comparison)}")
    if comparison.failed:
        raise SystemExit(f"{len(comparison.failed)} of {len(comparison.results)} cells failed")


def posteriors(comparison: Comparison, num_images: int = 4) -> Figure:
    """Draw q(z | x) as contours over p(z | x) on a grid: a row a configuration (its first seed), a column an image."""
    first = {name: one.results[0] for name, one in comparison.configurations.items() if one.results}
    figure = Figure(figsize=(2.1 * num_images, 2.1 * len(first)), layout="constrained", dpi=150)
    axes = figure.subplots(len(first), num_images, squeeze=False)
    for (name, result), line in zip(first.items(), axes, strict=True):
        for panel, (extent, exact, density) in zip(line, planes(result, num_images), strict=True):
            panel.imshow(exact.T.numpy(), origin="lower", extent=extent, aspect="auto", cmap="Greys")
            levels = [density.max().item() * share for share in (0.05, 0.3, 0.7)]
            panel.contour(density.T.numpy(), levels=levels, extent=extent, colors="C3")
            panel.tick_params(labelsize=5)
        line[0].set_ylabel(name, fontsize=8)
    figure.suptitle("grey: p(z | x) of each guide's own model, by quadrature; red: q(z | x)", fontsize=8)
    return figure


def planes(result: CellResult, num_images: int) -> list[tuple[tuple[float, ...], Tensor, Tensor]]:
    """Return for each image the corners of a window, and in it the true posterior and the guide's, (SIDE, SIDE)."""
    # Its classes have run already.
    model, guide, data = load_cell(result.path, trust=True)
    found = []
    for image in data.test[:num_images]:
        with torch.no_grad():
            z = guide(image.expand(DRAWS, *image.shape))
            low, high = (z.mean(0) + sign * 5 * z.std(0) for sign in (-1, 1))
            grid = torch.cartesian_prod(*(torch.linspace(low[i], high[i], SIDE) for i in range(2)))
            log_joint = model.prior().log_prob(grid) + model.likelihood(grid).log_prob(image)
        exact = log_joint.softmax(0).reshape(SIDE, SIDE)
        density = torch.tensor(gaussian_kde(z.T.numpy())(grid.T.numpy())).reshape(SIDE, SIDE)
        found.append(((low[0].item(), high[0].item(), low[1].item(), high[1].item()), exact, density))
    return found


if __name__ == "__main__":
    run_script(main)
