"""Fit a variational autoencoder to MNIST with SVI, and say how likely the test images are under it.

Two minutes on two cores; --help lists what can be changed: --guide, --prior, --likelihood, --objective, --network
first of all.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch

import pyro_vae
from pyro_vae import plots
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import ImageData, is_available
from pyro_vae.fit import BATCH_SIZE, EPOCHS, LEARNING_RATE
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.parts import make_objective, make_pair, part_names
from pyro_vae.runtime.files import write_bytes


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Fit a VAE to MNIST with SVI and report its importance-weighted log-likelihood.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="auto", help="mnist, mnist-static, fashion-mnist, mnist-5k, or auto: full MNIST if it "
        "is there or can be fetched, else mnist-5k")  # fmt: skip
    add("--root", help="folder of the data sets (else $PYRO_VAE_DATA, else the user's cache folder)")
    add("--binarization", help="stochastic, static, threshold or none (default: the data set's own)")
    add("--valid_size", type=int, help="images held out of training for validation (default: the data set's own)")
    defaults = {"guide": "mean_field", "prior": "standard_normal", "likelihood": "bernoulli", "objective": "trace_elbo"}
    defaults["network"] = "mlp"
    for kind, default in defaults.items():
        own = "your own: file.py:ClassName, package.module:ClassName; with options: 'NAME(option=value)'"
        add(f"--{kind}", default=default, help=f"{', '.join(part_names(kind))}, or {own}")
    add("--latent_dim", type=int, default=50, help="dimension of z")
    add("--hidden_dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    add("--batch_size", type=int, default=BATCH_SIZE, help="images a step")
    add("--lr", type=float, default=LEARNING_RATE, help="Adam's learning rate at the start")
    add("--schedule", choices=["cosine", "iwae", "constant"], default="cosine", help="of the learning rate")
    add("--kl_warmup", type=int, default=0, help="epochs over which the KL weight rises to 1")
    add("--patience", type=int, help="stop after this many epochs without a better validation bound")
    add("--no_init_bias", action="store_true", help="do not start the output bias at the logit of the mean image")
    add("--num_samples", type=int, default=500, help="K, importance samples an image")
    add("--num_test", type=int, help="test images to evaluate (default: all)")
    add("--seed", type=int, default=0, help="of initial parameters, data order and noise")
    add("--device", default="cpu", help="cpu, cuda or mps")
    add("--compile", choices=["off", "trace", "inductor", "auto"], default="trace", help="how steps run: see fit")
    add_out(parser, "svi_mnist", "the run")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds on mnist-5k, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.data, args.epochs, args.num_samples, args.num_test = "mnist-5k", 2, 50, 100
    return args


def load(args: argparse.Namespace) -> ImageData:
    """Load what was asked for; "auto" prefers full MNIST and says loudly when it had to make do with less."""
    if args.data != "auto":
        return load_named(args, args.data)
    try:
        if not is_available("mnist", args.root):
            print("Full MNIST is not on this machine yet: fetching it.", flush=True)
        return load_named(args, "mnist")
    except OSError:
        print("\n*** NOT full MNIST: it is not on this machine and could not be fetched (point $PYRO_VAE_DATA to it).\n"
              "*** This run uses the 5000 MNIST images that are installed with the package. Its numbers are NOT\n"
              "*** comparable with published tables.\n", file=sys.stderr)  # fmt: skip
        return load_named(args, "mnist-5k")


def load_named(args: argparse.Namespace, name: str) -> ImageData:
    """Load one data set by name."""
    return pyro_vae.load_data(
        name, args.root, args.binarization, seed=args.seed, valid_size=None if name == "mnist-5k" else args.valid_size
    )


def main() -> None:
    """Fit, evaluate, draw."""
    args = parse_args()
    args.out = choose_out(args, "svi_mnist")
    data = load(args)
    print(data)
    torch.manual_seed(args.seed)
    parts = {"guide": args.guide, "prior": args.prior, "likelihood": args.likelihood, "network": args.network}
    inputs = partial(data.observe, data.train)
    model, guide = make_pair(data.x_shape, args.latent_dim, args.hidden_dims, **parts, data=inputs)
    if not args.no_init_bias:
        model.likelihood.initialize_bias(data.train_mean())
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr)
    progress = False if args.quiet else None
    run = pyro_vae.fit(
        model,
        guide,
        data,
        objective=make_objective(args.objective),
        optimizer=partial(torch.optim.Adam, lr=args.lr, fused=True),
        scheduler={"cosine": cosine, "iwae": "iwae", "constant": None}[args.schedule],
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        out=args.out,
        resume=args.resume,
        compile=args.compile,
        device=args.device,
        kl_warmup=args.kl_warmup,
        patience=args.patience,
        progress=progress,
    )
    print(run)

    test = data.test[: args.num_test]
    terms = pyro_vae.elbo_terms(model, guide, test, seed=args.seed, progress=progress)
    units = pyro_vae.active_units(guide, test.to(args.device))
    evidence = pyro_vae.log_likelihood(model, guide, test, args.num_samples, seed=args.seed, progress=progress)
    print(f"{terms}\n{evidence}\n{units}", flush=True)
    measured = {"elbo_terms": terms, "log_likelihood": evidence, "active_units": units}
    results = {"data": run.data, "measured": {name: result.summary() for name, result in measured.items()}}
    write_bytes(args.out / "evaluation.json", f"{json.dumps(results, indent=2)}\n".encode())
    draw(args.out / "figures", run, test.to(args.device), units.most_active)
    print(f"Figures and numbers are in {args.out}.")


def draw(folder: Path, run: pyro_vae.Run, test: torch.Tensor, most_active: list[int]) -> None:
    """Write the figures."""
    folder.mkdir(exist_ok=True)
    prior, likelihood = run.model.prior, run.model.likelihood
    with torch.no_grad():
        means = likelihood(run.guide(test[:30])).mean
        center = torch.stack([run.guide(test[:1])[0] for _ in range(100)]).mean(0)
    figures = {
        "learning_curves": plots.learning_curves(run.history, run.config["objective"]["class"].rpartition(":")[2]),
        "reconstructions": plots.reconstructions(test[:30], means),
        "prior_samples": plots.prior_samples(prior, likelihood),
        "traversal": plots.latent_traversal(prior, likelihood, center, most_active[:10]),
    }
    if len(center) == 2 and isinstance(prior, StandardNormalPrior):
        figures["manifold"] = plots.manifold(likelihood, like=center)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")


if __name__ == "__main__":
    run_script(main)
