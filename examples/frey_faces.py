"""Fit variational autoencoders to the Frey faces: see what the latent units mean, and how likely new faces are.

    python examples/frey_faces.py

fits three models in a few minutes: one with 2 latent units, for the manifold, a grid over the latent plane (Kingma &
Welling 2014, figure 4); one with 5, for sweeps, in which one unit at a time moves through its prior's quantiles and
takes the smile or the pose of the head with it; and one with 16, a probability of 8-bit pixels, whose bits per
dimension compare with published ones. Instead of these, any others, each with a latent dimension and a likelihood:

    python examples/frey_faces.py --model 2 'discretized_logistic(scale="predicted")' --model 10 gaussian

The data set must be on this machine: load_data("frey-faces") says where it is looked for.
"""

import argparse
import json
import sys
from functools import partial

import torch

import pyro_vae
from pyro_vae import plots
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import ImageData
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.parts import make_objective, make_pair, parse_part, part_names
from pyro_vae.runtime.files import write_bytes

# The coarser the scale, the fewer nats a face is worth, and the fewer and plainer the things that units stand for: good
# for pictures. Bits per dimension want the finest scale that pays. GELU is worth 0.4 of them over tanh in 150 epochs.
MODELS = (
    ("2", 'gaussian(scale=0.1,activation="gelu")'),
    ("5", 'gaussian(scale=0.2,activation="gelu")'),
    ("16", 'discretized_logistic(scale="predicted",activation="gelu")'),
)


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Fit VAEs to the Frey faces; draw the manifold and sweeps of single latent units.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="frey-faces", help="frey-faces, or any other name or path that load_data knows")
    add("--root", help="folder of the data sets (else $PYRO_VAE_DATA, else the user's cache folder)")
    add("--model", nargs=2, action="append", metavar=("LATENT_DIM", "LIKELIHOOD"), default=argparse.SUPPRESS,
        help=f"dimension of z, and {', '.join(part_names('likelihood'))}, or with options: 'NAME(option=value)'; "
        f"again for each further model (default: {' and '.join(' '.join(model) for model in MODELS)})")  # fmt: skip
    defaults = {"guide": 'mean_field(activation="gelu")', "prior": "standard_normal", "objective": "trace_elbo"}
    defaults["network"] = "mlp"
    for kind, default in defaults.items():
        own = "your own: file.py:ClassName, package.module:ClassName; with options: 'NAME(option=value)'"
        add(f"--{kind}", default=default, help=f"{', '.join(part_names(kind))}, or {own}")
    add("--hidden_dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=150, help="passes over the training faces")
    add("--batch_size", type=int, default=32, help="faces a step")
    add("--lr", type=float, default=2e-3, help="Adam's learning rate at the start; it falls along a cosine")
    add("--kl_warmup", type=int, default=0, help="epochs over which the KL weight rises to 1")
    add("--patience", type=int, help="stop after this many epochs without a better validation bound")
    add("--num_samples", type=int, default=1000, help="K, importance samples a face")
    add("--num_sweeps", type=int, default=2, help="held-out faces to sweep from, beside z = 0")
    add("--seed", type=int, default=0, help="of initial parameters, data order and noise")
    add_out(parser, "frey_faces", "a run folder of each model")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds on mnist-5k, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    args.model = getattr(args, "model", MODELS)
    if args.smoke:
        args.data, args.epochs, args.num_samples = "mnist-5k", 1, 10
    return args


def main() -> None:
    """Fit, evaluate and draw each model."""
    args = parse_args()
    args.out = choose_out(args, "frey_faces")
    data = pyro_vae.load_data(args.data, args.root, binarization="none", seed=args.seed)
    print(data)
    for latent_dim, likelihood in args.model:
        evaluate(args, fit(args, data, int(latent_dim), likelihood), data)


def fit(args: argparse.Namespace, data: ImageData, latent_dim: int, likelihood: str) -> pyro_vae.Run:
    """Fit one model."""
    print(f"\n{latent_dim} latent units, {likelihood}", flush=True)
    torch.manual_seed(args.seed)
    parts = {"guide": args.guide, "prior": args.prior, "likelihood": likelihood, "network": args.network}
    inputs = partial(data.observe, data.train)
    model, guide = make_pair(data.x_shape, latent_dim, args.hidden_dims, **parts, data=inputs)
    model.likelihood.initialize_bias(data.train_mean())
    return pyro_vae.fit(
        model,
        guide,
        data,
        objective=make_objective(args.objective),
        optimizer=partial(torch.optim.Adam, lr=args.lr, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr),
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        out=args.out / f"{latent_dim}_{parse_part('likelihood', likelihood)[0].rpartition(':')[2]}",
        resume=args.resume,
        kl_warmup=args.kl_warmup,
        patience=args.patience,
        progress=False if args.quiet else None,
    )


def evaluate(args: argparse.Namespace, run: pyro_vae.Run, data: ImageData) -> None:
    """Print and keep the numbers of one model, and write its figures."""
    pair = run.model, run.guide
    progress = False if args.quiet else None
    terms = pyro_vae.elbo_terms(*pair, data.test, seed=args.seed, progress=progress)
    evidence = pyro_vae.log_likelihood(*pair, data.test, args.num_samples, seed=args.seed, progress=progress)
    units = pyro_vae.active_units(run.guide, data.test)
    print(f"{run}\n{terms}\n{evidence}\n{units}", flush=True)
    measured = {"elbo_terms": terms, "log_likelihood": evidence, "active_units": units}
    results = {"data": run.data, "measured": {name: result.summary() for name, result in measured.items()}}
    write_bytes(run.path / "evaluation.json", f"{json.dumps(results, indent=2)}\n".encode())

    prior, likelihood = run.model.prior, run.model.likelihood
    with torch.no_grad():
        centers = torch.stack([run.guide(data.test[:30]) for _ in range(100)]).mean(0)
        figures = {
            "learning_curves": plots.learning_curves(run.history),
            "reconstructions": plots.reconstructions(data.test[:30], likelihood(centers).mean),
            "prior_samples": plots.prior_samples(prior, likelihood),
        }
    starts = {"zero": torch.zeros_like(centers[0])} | {f"face_{i}": z for i, z in enumerate(centers[: args.num_sweeps])}
    for name, start in starts.items():
        figures[f"sweeps_from_{name}"] = plots.latent_traversal(prior, likelihood, start, units.most_active[:10])
    if centers.shape[-1] == 2 and isinstance(prior, StandardNormalPrior):
        figures["manifold"] = plots.manifold(likelihood, like=centers)
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    print(f"Figures and numbers are in {run.path}.")


if __name__ == "__main__":
    run_script(main)
