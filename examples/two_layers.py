"""What does a second stochastic layer buy, and what do importance weights buy? Four nets of the IWAE paper, small.

The table of Burda, Grosse and Salakhutdinov (2015), arXiv 1509.00519, with a short schedule: one and two stochastic
layers, each trained on the ELBO and on the importance-weighted bound, both of k samples a datum. For each net: the
bound on log p(x) of K samples, and the active units of each layer, as 16+5.
"""

import argparse
import json
import math
import sys
from functools import partial

import torch

import pyro_vae
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import DataNotFoundError, ImageData
from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation import LogLikelihood, active_units
from pyro_vae.fit import iwae_schedule
from pyro_vae.objectives import IWAE, MIWAE
from pyro_vae.parts import make_pair
from pyro_vae.runtime.files import write_bytes


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="One and two stochastic layers, trained on the ELBO and on the importance-weighted bound.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="mnist", help="a data set's name; mnist-5k where that one is not installed")
    add("--k", type=int, default=5, help="samples a datum of both bounds")
    add("--guide", default="bottom_up", help="of the two layers: bottom_up, top_down or 'NAME(option=value)'")
    add("--latent_dim", type=int, default=50, help="dimension of the top layer")
    add("--inner_latent_dim", type=int, default=100, help="dimension of z1, the lower of two layers")
    add("--hidden_dims", type=int, nargs="+", default=[200, 200], help="hidden layers between x and the layer above it")
    add("--inner_hidden_dims", type=int, nargs="+", default=[100, 100], help="hidden layers between z1 and z2")
    add("--epochs", type=int, default=100, help="passes over the training images for each net; the paper's are 3280")
    add("--batch_size", type=int, default=20, help="images a step")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate at the start of training")
    add("--num_samples", type=int, default=5000, help="K of the bound on log p(x)")
    add("--num_test", type=int, default=1000, help="test images to measure")
    add("--seed", type=int, default=0, help="of parameters, data order and noise")
    add("--compile", choices=["off", "trace", "inductor", "auto"], default="auto", help="how steps run: see fit")
    add_out(parser, "two_layers", "the runs and the table")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.data, args.epochs, args.batch_size, args.num_samples, args.num_test = "mnist-5k", 1, 100, 50, 20
        args.latent_dim, args.inner_latent_dim, args.hidden_dims, args.inner_hidden_dims = 5, 8, [20], [10]
        args.k, args.compile = 2, "trace"
    return args


def main() -> None:
    """Train, measure, print, compare."""
    args = parse_args()
    args.out = choose_out(args, "two_layers")
    args.out.mkdir(parents=True, exist_ok=True)
    data = load(args)
    test = data.observe(data.test[: args.num_test])
    print(f"{data}\n{len(test)} test images, nats per image. The bounds of training have k = {args.k} samples.\n")
    head = f"log p(x) >= (K = {args.num_samples})"
    print(f"{'layers':7s} {'trained on':11s} {head:>25s} {'over images':>12s} {'active units':>13s}", flush=True)
    found: dict[tuple[int, str], LogLikelihood] = {}
    rows = []
    for layers in (1, 2):
        for objective in ("ELBO", "IWAE"):
            try:
                evidence, units = fit_and_measure(args, layers, objective, data, test)
            except NonFiniteError as error:
                print(f"{layers:<7d} {objective:11s} {error}", flush=True)
                continue
            found[layers, objective] = evidence
            numbers = evidence.summary()["log_likelihood"]
            rows.append({"layers": layers, "objective": objective, "active_units": units, **numbers})
            nats = f"{evidence.mean:.2f} (s.e. {evidence.standard_error:.3f})"
            spread = f"s.e. {evidence.data_standard_error:.2f}"
            print(f"{layers:<7d} {objective:11s} {nats:>25s} {spread:>12s} {units:>13s}", flush=True)
            table = {"data": data.describe(), "k": args.k, "epochs": args.epochs, "num_samples": args.num_samples}
            table["nets"] = rows
            write_bytes(args.out / "table.json", f"{json.dumps(table, indent=2)}\n".encode())
    if not found:
        raise SystemExit("No net could be fitted: try a smaller --lr.")
    print("\nWhat is gained, on the same images:")
    for objective in ("ELBO", "IWAE"):
        gain(f"the second layer, trained on the {objective}", found, (2, objective), (1, objective))
    for layers in (1, 2):
        what = f"the importance weights, with {layers} layer{'s' if layers > 1 else ''}"
        gain(what, found, (layers, "IWAE"), (layers, "ELBO"))
    print(f"\nThe table is in {args.out}.")


def load(args: argparse.Namespace) -> ImageData:
    """Return the images: pixels drawn anew at each look in training."""
    try:
        return pyro_vae.load_data(args.data, binarization="stochastic", seed=args.seed, download=False)
    except DataNotFoundError as error:
        print(f"{error}\nGoes on with mnist-5k.\n")
        return pyro_vae.load_data("mnist-5k", binarization="stochastic", seed=args.seed)


def fit_and_measure(
    args: argparse.Namespace, layers: int, objective: str, data: ImageData, test: torch.Tensor
) -> tuple[LogLikelihood, str]:
    """Train one net, and return its bound on log p(x) and its active units, from x upward."""
    torch.manual_seed(args.seed)
    inner = f"inner_latent_dims=({args.inner_latent_dim},), inner_hidden_dims={tuple(args.inner_hidden_dims)}"
    names = {"guide": "mean_field"} if layers == 1 else {"model": f"hierarchical_vae({inner})", "guide": args.guide}
    model, guide = make_pair(data.x_shape, args.latent_dim, args.hidden_dims, **names)
    model.likelihood.initialize_bias(data.train_mean())
    # The ELBO as the mean of k samples, and the logarithm of the mean of k weights.
    bound = MIWAE(num_groups=args.k, num_particles=1) if objective == "ELBO" else IWAE(num_particles=args.k)
    progress = False if args.quiet else None
    pyro_vae.fit(
        model, guide, data, objective=bound, optimizer=partial(torch.optim.Adam, lr=args.lr, eps=1e-4, fused=True),
        scheduler=partial(iwae_schedule, epochs=args.epochs), epochs=args.epochs, batch_size=args.batch_size,
        seed=args.seed, progress=progress, compile=args.compile, out=args.out / f"{layers}_{objective.lower()}",
        resume=args.resume,
    )  # fmt: skip
    evidence = pyro_vae.log_likelihood(
        model, guide, test, num_samples=args.num_samples, seed=args.seed, progress=progress
    )
    by_site = active_units(guide, test).by_site
    return evidence, "+".join(str(by_site[site].count) for site in sorted(by_site))


def gain(
    what: str, found: dict[tuple[int, str], LogLikelihood], with_it: tuple[int, str], without: tuple[int, str]
) -> None:
    """Print by how much one net's bound is above another's, with its error over images."""
    if with_it in found and without in found:
        difference = found[with_it].per_datum - found[without].per_datum
        error = difference.std().item() / math.sqrt(len(difference))
        print(f"  {what:40s} {difference.mean().item():+.2f} (s.e. {error:.2f})")


if __name__ == "__main__":
    run_script(main)
