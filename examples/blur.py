"""Where does the blur of variational autoencoders come from: the likelihood, the bound, or the picture that is shown?

    python examples/blur.py

fits four models to grey images in a few minutes. They differ in p(x | z), a Gaussian with a fixed scale (squared
error), one with a learned scale, and a mixture of logistics, and in the objective, the ELBO and IWAE's bound. For each
it prints how likely new images are in bits per dimension, and how sharp three pictures are beside the data:
reconstructions and samples as they are usually shown, the mean of p(x | z), and samples with the noise of p(x | z).

A picture of the mean is blurred wherever p(x | z) is wide: it averages over all that the likelihood calls noise. What
the likelihood may call noise is the modeller's choice; the fixed scale of a squared error calls most detail so.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_vae
from pyro_vae.cli.scripts import TABLE, add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import DataNotFoundError, ImageData
from pyro_vae.evaluation import Estimate, SharpnessRatio, reconstruction_sharpness, sharpness_ratio
from pyro_vae.parts import make_objective, make_pair
from pyro_vae.runtime.files import write_bytes
from pyro_vae.runtime.random_state import seeded

MIXTURE = "discretized_logistic_mixture"

MODELS = {
    "Gaussian, scale 1": ("gaussian(scale=1.0)", "trace_elbo"),
    "Gaussian, learned scale": ("gaussian", "trace_elbo"),
    "logistic mixture": (MIXTURE, "trace_elbo"),
    "logistic mixture, IWAE": (MIXTURE, "iwae(num_particles=5)"),
}
"""Likelihood and objective of each model, by what the table calls it."""

GREY_LEVELS = 256

HEADS = ("bits/dim", "reconstructions", "samples, mean", "samples, noise")


@dataclass(frozen=True)
class Measured:
    """One model's numbers and pictures."""

    bits: Estimate
    reconstructions: SharpnessRatio
    sample_means: SharpnessRatio
    samples: SharpnessRatio
    pictures: tuple[Tensor, Tensor]
    """Means of p(x | z) and draws from it, at the same draws of z."""

    @property
    def sharpness(self) -> dict[str, SharpnessRatio]:
        """The three ratios, by the names of their columns."""
        return dict(zip(HEADS[1:], (self.reconstructions, self.sample_means, self.samples), strict=True))


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Compare the sharpness and the bits per dimension of VAEs with three likelihoods, and IWAE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="frey-faces", help="grey images that load_data knows; mnist-5k where they are not installed")
    add("--latent_dim", type=int, default=16, help="dimension of z")
    add("--hidden_dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=150, help="passes over the training images, for each model")
    add("--batch_size", type=int, default=32, help="images a step")
    add("--lr", type=float, default=2e-3, help="Adam's learning rate at the start; it falls along a cosine")
    add("--num_samples", type=int, default=1000, help="K, importance samples an image")
    add("--num_test", type=int, default=200, help="test images to measure, and samples to draw")
    add("--seed", type=int, default=0, help="of initial parameters, data order and noise")
    add_out(parser, "blur", "a run folder of each model, the table and the figure")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds on mnist-5k, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.data, args.epochs, args.num_samples, args.num_test = "mnist-5k", 1, 10, 20
        args.latent_dim, args.hidden_dims, args.batch_size = 4, [20], 200
    return args


def main() -> None:
    """Fit, measure, print, draw."""
    args = parse_args()
    args.out = choose_out(args, "blur")
    args.out.mkdir(parents=True, exist_ok=True)
    data = load(args)
    test = data.test[: args.num_test]
    print(
        f"{data}\n{len(test)} test images. Sharpness beside the data's: 1 is as sharp, below is blurred, above noisy."
    )
    print("In brackets the standard error over images.\n")
    print(f"{'model':24s}" + "".join(f" {head:>17s}" for head in HEADS), flush=True)
    rows: dict[str, Any] = {}
    pictures = [("data", test)]
    for name, (likelihood, objective) in MODELS.items():
        measured = measure(args, *fit(args, data, name, likelihood, objective), test)
        bits = f"{measured.bits.mean:.3f} ({measured.bits.data_standard_error:.3f})"
        ratios = [f"{ratio.ratio:.3f} ({ratio.standard_error:.3f})" for ratio in measured.sharpness.values()]
        print(f"{name:24s}" + "".join(f" {text:>17s}" for text in (bits, *ratios)), flush=True)
        rows[name] = {"bits_per_dim": measured.bits.summary()}
        rows[name] |= {head: ratio.summary() for head, ratio in measured.sharpness.items()}
        pictures += zip((f"{name}: mean of p(x | z)", "a draw from p(x | z)"), measured.pictures, strict=True)
        figure(pictures).savefig(args.out / "blur.png")
        table = json.dumps({"data": data.describe(), "models": rows}, indent=2)
        write_bytes(args.out / TABLE, f"{table}\n".encode())
    print(f"\nTable and figure are in {args.out}.")


def load(args: argparse.Namespace) -> ImageData:
    """Return grey images."""
    try:
        return pyro_vae.load_data(args.data, binarization="none", seed=args.seed, download=False)
    except DataNotFoundError as error:
        print(f"{error}\nGoes on with mnist-5k.\n")
        return pyro_vae.load_data("mnist-5k", binarization="none", seed=args.seed)


def fit(args: argparse.Namespace, data: ImageData, name: str, likelihood: str, objective: str) -> tuple[Any, Any]:
    """Fit one model, and return it with its guide."""
    torch.manual_seed(args.seed)
    model, guide = make_pair(data.x_shape, args.latent_dim, args.hidden_dims, likelihood=likelihood, activation="gelu")
    model.likelihood.initialize_bias(data.train_mean())
    pyro_vae.fit(
        model, guide, data, objective=make_objective(objective),
        optimizer=partial(torch.optim.Adam, lr=args.lr, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * args.lr),
        epochs=args.epochs, batch_size=args.batch_size, seed=args.seed, progress=False if args.quiet else None,
        out=args.out / name.replace(", ", "_").replace(" ", "_"), resume=args.resume,
    )  # fmt: skip
    return model, guide


def measure(args: argparse.Namespace, model: Any, guide: Any, test: Tensor) -> Measured:
    """Measure a model on test images, and draw as many samples."""
    progress = False if args.quiet else None
    evidence = pyro_vae.log_likelihood(
        model, guide, test, num_samples=args.num_samples, seed=args.seed, progress=progress
    )
    with seeded(args.seed), torch.no_grad():
        p = model.likelihood(model.prior().sample(torch.Size([len(test)])))
        # As they are shown: a Gaussian's draws leave the range of grey.
        means, draws = p.mean.clamp(0, 1), p.sample().clamp(0, 1)
    return Measured(
        bits=bits_per_dim(evidence, test),
        reconstructions=reconstruction_sharpness(model, guide, test, seed=args.seed),
        sample_means=sharpness_ratio(means, test, paired=False),
        samples=sharpness_ratio(draws, test, paired=False),
        pictures=(means, draws),
    )


def bits_per_dim(evidence: pyro_vae.evaluation.LogLikelihood, test: Tensor) -> Estimate:
    """Return bits for each pixel of 256 grey levels.

    A density has none. Its probability of a grey level is taken as the density there times the distance of two levels,
    1 / 255, which holds where the density is wide beside that distance.
    """
    if evidence.bits_per_dim is not None:
        return evidence.bits_per_dim
    nats, num_pixels = evidence.log_probability(), test[0].numel()
    per_datum = nats.per_datum - num_pixels * math.log(GREY_LEVELS - 1)
    return Estimate(per_datum, nats.standard_errors, datum="image").in_bits(num_pixels)


def figure(pictures: list[tuple[str, Tensor]], columns: int = 12) -> Figure:
    """Draw a row of images for each title."""
    height, width = pictures[0][1].shape[-2:]
    drawn = Figure(figsize=(9, len(pictures) * (9 * height / width / columns + 0.28)), layout="constrained", dpi=150)
    for axes, (title, images) in zip(drawn.subplots(len(pictures), squeeze=False)[:, 0], pictures, strict=True):
        row = torch.cat([*images[:columns].clamp(0, 1)], dim=-1).numpy()
        axes.imshow(row[0] if len(row) == 1 else row.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=8, loc="left")
        axes.set_axis_off()
    return drawn


if __name__ == "__main__":
    run_script(main)
