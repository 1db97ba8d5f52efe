"""Six guides for one family of models: what each bound says, how far it is from the evidence, and what it looks like.

Every guide is trained with a decoder of its own, from the same seed, on the same batches. The table has a row a guide;
the figure shows each guide's q(z | x) over the true posterior of its own model, computed on a grid of the latent plane.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde
from torch import Tensor

import pyro_vae
from pyro_vae.evaluation import ElboTerms, LogLikelihood
from pyro_vae.parts import make_pair, part_names

GUIDES = ["mean_field", "full_rank", "mixture", "planar", "iaf", "spline"]
DRAWS = 4000
"""Draws of q behind a contour."""
SIDE = 60
"""Points along each axis of the grid."""


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Compare guides: ELBO, log-likelihood, the gap between them, cost, and pictures of q(z | x).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--guides", nargs="+", default=GUIDES, help=f"of {', '.join(part_names('guide'))}; 'NAME(option=value)'")
    add("--data", default="mnist-5k", help="a data set's name")
    add("--latent-dim", type=int, default=2, help="dimension of z; the figure needs 2")
    add("--hidden-dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=100, help="passes over the training images, for each guide")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate at the start")
    add("--num-samples", type=int, default=1000, help="K, importance samples an image")
    add("--num-test", type=int, help="test images to evaluate (default: all)")
    add("--seed", type=int, default=0, help="of parameters, data order and noise")
    add("--out", type=Path, default=Path("runs/compare_guides"), help="folder for the table and the figure")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args()
    if args.smoke:
        args.epochs, args.num_samples, args.num_test, args.guides = 1, 50, 50, args.guides[:3]
    return args


def main() -> None:
    """Train, evaluate, print, draw."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = pyro_vae.load_data(args.data, seed=args.seed)
    test = data.test[: args.num_test]
    print(f"{data}\n{len(test)} test images, nats per image. In brackets the Monte Carlo s.e. of the bounds, and for\n"
          "differences the paired s.e. over images.\n")  # fmt: skip
    print(f"{'guide':16s} {'ELBO':>17s} {'log p(x) >=':>17s} {'gap':>14s} {'ELBO over first':>16s} "
          f"{'ms/step':>8s} {'parameters':>10s}", flush=True)  # fmt: skip
    rows, pairs, first = {}, {}, None
    for name in args.guides:
        run, terms, evidence = fit_and_evaluate(args, name, data, test)
        first = terms if first is None else first
        rows[name] = row(run, terms, evidence, first, len(data.train))
        pairs[name] = (run.model, run.guide)
        print(describe(name, rows[name]), flush=True)
    (args.out / "table.json").write_text(json.dumps({"data": run.data, "guides": rows}, indent=2) + "\n")
    if args.latent_dim == 2:
        posteriors(pairs, test[:4]).savefig(args.out / "posteriors.png")
    print(f"\nTable and figure are in {args.out}.")


def fit_and_evaluate(
    args: argparse.Namespace, name: str, data: pyro_vae.data.ImageData, test: Tensor
) -> tuple[pyro_vae.Run, ElboTerms, LogLikelihood]:
    """Train one guide with its own decoder, and evaluate it."""
    torch.manual_seed(args.seed)
    inputs = partial(data.observe, data.train)
    model, guide = make_pair(data.x_shape, args.latent_dim, args.hidden_dims, guide=name, data=inputs)
    model.likelihood.initialize_bias(data.train_mean())
    optimizer = partial(torch.optim.Adam, lr=args.lr, fused=True)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr)
    progress = False if args.quiet else None
    run = pyro_vae.fit(
        model, guide, data, optimizer=optimizer, scheduler=cosine, epochs=args.epochs, seed=args.seed, progress=progress
    )  # fmt: skip
    terms = pyro_vae.elbo_terms(model, guide, test, 100, seed=args.seed, progress=progress)
    return run, terms, pyro_vae.log_likelihood(model, guide, test, args.num_samples, seed=args.seed, progress=progress)


def row(run: pyro_vae.Run, terms: ElboTerms, evidence: LogLikelihood, first: ElboTerms, num_train: int) -> dict:
    """Return one row of the table."""
    steps = num_train // run.config["batch_size"]
    seconds = sorted(epoch["seconds"] for epoch in run.history)[len(run.history) // 2]
    return {
        "elbo": [terms.mean, terms.standard_error],
        "log_likelihood": [evidence.mean, evidence.standard_error],
        "gap": mean_and_error(evidence.per_datum - terms.elbo),
        "elbo_over_first": mean_and_error(terms.elbo - first.elbo),
        "ms_per_step": 1e3 * seconds / steps,
        "parameters": sum(p.numel() for p in run.guide.parameters()),
    }


def mean_and_error(difference: Tensor) -> list[float]:
    """Return the mean of paired differences and its standard error over images."""
    return [difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()]


def describe(name: str, row: dict) -> str:
    """Return one line of the table."""
    elbo, evidence, gap, over = (
        f"{row[key][0]:.2f} ({row[key][1]:.2g})" for key in ("elbo", "log_likelihood", "gap", "elbo_over_first")
    )
    cost = f"{row['ms_per_step']:8.1f} {row['parameters']:10d}"
    return f"{name:16s} {elbo:>17s} {evidence:>17s} {gap:>14s} {over:>16s} {cost}"


def posteriors(pairs: dict, x: Tensor) -> Figure:
    """Draw q(z | x) as contours over p(z | x) on a grid: a row a guide, a column an image."""
    figure = Figure(figsize=(2.1 * len(x), 2.1 * len(pairs)), layout="constrained", dpi=150)
    axes = figure.subplots(len(pairs), len(x), squeeze=False)
    with torch.no_grad():
        for (name, (model, guide)), line in zip(pairs.items(), axes, strict=True):
            for image, panel in zip(x, line, strict=True):
                z = guide(image.expand(DRAWS, *image.shape))
                low, high = (z.mean(0) + sign * 5 * z.std(0) for sign in (-1, 1))
                a, b = (torch.linspace(low[i], high[i], SIDE) for i in range(2))
                grid = torch.cartesian_prod(a, b)
                log_joint = model.prior().log_prob(grid) + model.likelihood(grid).log_prob(image)
                extent = (low[0].item(), high[0].item(), low[1].item(), high[1].item())
                exact = log_joint.softmax(0).reshape(SIDE, SIDE).T.numpy()
                panel.imshow(exact, origin="lower", extent=extent, aspect="auto", cmap="Greys")
                density = gaussian_kde(z.T.numpy())(grid.T.numpy()).reshape(SIDE, SIDE).T
                panel.contour(a, b, density, levels=[density.max() * share for share in (0.05, 0.3, 0.7)], colors="C3")
                panel.tick_params(labelsize=5)
            line[0].set_ylabel(name, fontsize=8)
    figure.suptitle("grey: p(z | x) of each guide's own model, by quadrature; red: q(z | x)", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
