"""Where the ELBO is lost: to the family of q, or to the encoder? The split for four guides and two sizes of encoder.

The table of Cremer, Li and Duvenaud (2018), arXiv 1801.03558, on thresholded images. Every pair is trained by itself,
with a decoder of one size; for each test image the best member of the guide's own family is then found. A guide without
a Gaussian posterior is measured against a flow on top of it, which is a larger family than its own.
"""

import argparse
import json
import sys
from functools import partial

import torch
from matplotlib.figure import Figure

import pyro_vae
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import DataNotFoundError, ImageData
from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation import InferenceGaps, inference_gaps
from pyro_vae.models import VAE
from pyro_vae.parts import make_part, part_names
from pyro_vae.runtime.files import write_bytes

GUIDES = ["mean_field", "full_rank", "iaf", "auxiliary"]
COLUMNS = ["log_likelihood", "best_elbo", "elbo", "approximation_gap", "amortization_gap", "inference_gap"]
HEADS = ["log p^", "L[q*]", "L[q]", "approximation", "amortization", "whole gap"]


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Split the inference gap into approximation and amortization gap, by guide and size of encoder.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--guide",
        "--guides",
        dest="guides",
        nargs="+",
        default=GUIDES,
        help=f"of {', '.join(part_names('guide'))}; 'NAME(option=value)'",
    )
    add("--data", default="fashion-mnist", help="a data set's name; mnist-5k where that one is not installed")
    add("--latent_dim", type=int, default=50, help="dimension of z")
    add("--decoder", type=int, nargs="+", default=[200, 200], help="hidden layers of every decoder")
    add("--small", type=int, nargs="+", default=[200, 200], help="hidden layers of the small encoder")
    add("--large", type=int, nargs="+", default=[500, 500], help="hidden layers of the large encoder")
    add("--epochs", type=int, default=200, help="passes over the training images, for each pair")
    add("--kl_warmup", type=int, default=50, help="epochs in which the KL's weight rises to 1")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate at the start of training")
    add("--family", default="own", help="of q*: own, diagonal, full_rank or flow")
    add("--num_samples", type=int, default=5000, help="K of the evidence; a fifth of it for each ELBO")
    add("--max_steps", type=int, default=5000, help="of the search for an image's q*, at most")
    add("--num_test", type=int, default=100, help="test images to measure")
    add("--seed", type=int, default=0, help="of parameters, data order and noise")
    add("--compile", choices=["off", "trace", "inductor", "auto"], default="auto", help="how steps run: see fit")
    add_out(parser, "inference_gaps", "the runs, the table and the figure")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.epochs, args.kl_warmup, args.num_samples, args.max_steps, args.num_test = 1, 1, 100, 50, 10
        args.data, args.guides, args.latent_dim = "mnist-5k", args.guides[:3:2], 5
        args.decoder, args.small, args.large = [20], [20], [40]
    return args


def main() -> None:
    """Train, measure, print, draw."""
    args = parse_args()
    args.out = choose_out(args, "inference_gaps")
    args.out.mkdir(parents=True, exist_ok=True)
    data = load(args)
    test = data.test[: args.num_test]
    print(f"{data}\n{len(test)} test images, nats per image, in brackets the standard error over images.\n")
    print(f"{'guide':16s} {'encoder':8s}" + "".join(f" {head:>15s}" for head in HEADS), flush=True)
    rows: dict[str, dict] = {}
    for name in args.guides:
        for size, hidden_dims in (("small", args.small), ("large", args.large)):
            try:
                gaps = fit_and_measure(args, name, size, hidden_dims, data, test)
            except NonFiniteError as error:
                print(f"{name:16s} {size:8s} {error}", flush=True)
                continue
            rows[f"{name}, {size}"] = gaps.summary()
            print(f"{name:16s} {size:8s}" + "".join(f" {cell(gaps, column):>15s}" for column in COLUMNS), flush=True)
            if not gaps.converged.all():
                print(f"  (q* not converged for {(~gaps.converged).sum()} images)", flush=True)
            table = json.dumps({"data": data.describe(), "pairs": rows}, indent=2)
            write_bytes(args.out / "table.json", f"{table}\n".encode())
            stacked_bars(rows).savefig(args.out / "gaps.png")
    if not rows:
        raise SystemExit("No pair could be fitted: try a smaller --lr.")
    print(f"\nTable and figure are in {args.out}.")


def load(args: argparse.Namespace) -> ImageData:
    """Return the images: zeros and ones, each image the same at every look."""
    try:
        return pyro_vae.load_data(args.data, binarization="threshold", seed=args.seed, download=False)
    except DataNotFoundError as error:
        print(f"{error}\nGoes on with mnist-5k.\n")
        return pyro_vae.load_data("mnist-5k", binarization="threshold", seed=args.seed)


def fit_and_measure(
    args: argparse.Namespace, name: str, size: str, hidden_dims: list[int], data: ImageData, test: torch.Tensor
) -> InferenceGaps:
    """Train one pair, and split its inference gap on the test images."""
    torch.manual_seed(args.seed)
    model = VAE(data.x_shape, args.latent_dim, args.decoder, activation="elu")
    model.likelihood.initialize_bias(data.train_mean())
    guide = make_part(
        "guide", name, x_shape=data.x_shape, latent_dim=args.latent_dim, hidden_dims=tuple(hidden_dims),
        activation="elu",
    )  # fmt: skip
    progress = False if args.quiet else None
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr)
    pyro_vae.fit(
        model, guide, data, optimizer=partial(torch.optim.Adam, lr=args.lr, eps=1e-4, fused=True), scheduler=cosine,
        epochs=args.epochs, batch_size=100, kl_warmup=args.kl_warmup, seed=args.seed, progress=progress,
        compile=args.compile, out=args.out / f"{name}_{size}", resume=args.resume,
    )  # fmt: skip
    return inference_gaps(
        model, guide, test, family=args.family, num_samples=max(2, args.num_samples // 5),
        evidence_samples=args.num_samples, max_steps=args.max_steps, seed=args.seed, progress=progress,
    )  # fmt: skip


def cell(gaps: InferenceGaps, column: str) -> str:
    """Return a mean and its standard error over images."""
    estimate = gaps.estimates[column]
    return f"{estimate.mean:.2f} ({estimate.data_standard_error:.2f})"


def stacked_bars(rows: dict[str, dict]) -> Figure:
    """Draw a bar a pair: the approximation gap, and the amortization gap on top of it."""
    figure = Figure(figsize=(1.6 + 0.9 * len(rows), 4), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    names, bottom = [name.replace(", ", "\n") for name in rows], [0.0] * len(rows)
    for gap, color in (("approximation_gap", "C0"), ("amortization_gap", "C1")):
        heights = [row[gap]["mean"] for row in rows.values()]
        errors = [2 * row[gap]["data_standard_error"] for row in rows.values()]
        axes.bar(names, heights, bottom=bottom, yerr=errors, capsize=3, color=color, label=gap.replace("_", " "))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_ylabel("log p^(x) - ELBO (nats per image)")
    axes.set_title("whiskers: 2 standard errors of each gap over images", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    run_script(main)
