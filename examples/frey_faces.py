"""Fit variational autoencoders to the Frey faces, and see what the latent units mean.

One model for each of --latent-dims. With two latent dimensions its manifold is drawn, a grid over the latent plane;
with any number, sweeps: one unit moved through its prior's quantiles while the others stay, in which smile and pose of
the head are seen to move. Held-out faces are scored in nats, and as 8-bit images in bits per dimension.

The data set must be on this machine: load_data("frey-faces") says where it is looked for.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from pyro.infer import Trace_ELBO

import pyro_vae
from pyro_vae import plots
from pyro_vae.data import ImageData
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import find_part


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Fit VAEs to the Frey faces; draw the manifold and sweeps of single latent units.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="frey-faces", help="frey-faces, or any other name or path that load_data knows")
    add("--root", help="folder of the data sets (else $PYRO_VAE_DATA, else the user's cache folder)")
    add("--likelihood", choices=["discretized_logistic", "gaussian"], default="discretized_logistic",
        help="a probability of 8-bit pixels, or a density of real ones, which has no bits per dimension")  # fmt: skip
    add("--scale", choices=["shared", "predicted"], default="predicted", help="one for all pixels, or by the decoder")
    add("--latent-dims", type=int, nargs="+", default=[2, 10], help="dimensions of z, a model each")
    add("--hidden-dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=300, help="passes over the training faces")
    add("--batch-size", type=int, default=64, help="faces a step")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate at the start; it falls along a cosine")
    add("--kl-warmup", type=int, default=0, help="epochs over which the KL weight rises to 1")
    add("--num-samples", type=int, default=1000, help="K, importance samples a face")
    add("--num-sweeps", type=int, default=3, help="held-out faces to sweep from")
    add("--seed", type=int, default=0, help="of initial parameters, data order and noise")
    add("--out", type=Path, default=Path("runs/frey_faces"), help="folder for a run folder of each model")
    add("--resume", action="store_true", help="go on with the runs in --out")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds on mnist-5k, to see that everything works")
    args = parser.parse_args()
    if args.smoke:
        args.data, args.epochs, args.num_samples, args.latent_dims = "mnist-5k", 1, 10, [2, 3]
    return args


def main() -> None:
    """Fit, evaluate and draw each model."""
    args = parse_args()
    data = pyro_vae.load_data(args.data, args.root, binarization="none", seed=args.seed)
    print(data)
    for latent_dim in args.latent_dims:
        evaluate(args, fit(args, data, latent_dim), data)


def fit(args: argparse.Namespace, data: ImageData, latent_dim: int) -> pyro_vae.Run:
    """Fit one model."""
    torch.manual_seed(args.seed)
    likelihood = find_part("likelihood", args.likelihood)(
        data.x_shape, latent_dim, args.hidden_dims[::-1], scale=args.scale
    )
    likelihood.initialize_bias(data.train_mean())
    return pyro_vae.fit(
        VAE(data.x_shape, latent_dim, likelihood=likelihood),
        MeanFieldGuide(data.x_shape, latent_dim, args.hidden_dims),
        data,
        objective=Trace_ELBO(),
        optimizer=partial(torch.optim.Adam, lr=args.lr, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr),
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        out=args.out / f"latent_{latent_dim}",
        resume=args.resume,
        kl_warmup=args.kl_warmup,
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
    results = {"data": run.data, "elbo": terms.summary(), "log_likelihood": evidence.summary(), "active": units.count}
    (run.path / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")

    prior, likelihood = run.model.prior, run.model.likelihood
    with torch.no_grad():
        centers = run.guide.posterior(data.test[:30]).mean
        figures = {
            "learning_curves": plots.learning_curves(run.history),
            "reconstructions": plots.reconstructions(data.test[:30], likelihood(centers).mean),
            "prior_samples": plots.prior_samples(prior, likelihood),
        }
    for index, center in enumerate(centers[: args.num_sweeps]):
        figures[f"sweep_{index}"] = plots.latent_traversal(prior, likelihood, center, units.most_active[:10])
    if centers.shape[-1] == 2:
        figures["manifold"] = plots.manifold(likelihood, like=centers)
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    print(f"Figures and numbers are in {run.path}.")


if __name__ == "__main__":
    main()
