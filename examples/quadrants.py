"""What is behind the missing quadrants of a digit? A conditional VAE beside a plain network, given 1, 2 and 3 of them.

The experiment of Sohn, Lee and Yan (2015), section 5.1, as Pyro's tutorial runs it: two hidden layers of 500 ReLUs
everywhere, 200 latent units, Adam at 1e-3, stopped after 3 epochs without a better validation bound, and grey pixels as
soft targets. A number is minus log p(x | y) of the missing pixels x, in nats per image, the mean over the test images.
The plain network predicts each missing pixel by itself, so that its number is exact; the conditional VAE's is
importance-weighted, and beside it stands minus its ELBO, which is what the tutorial prints. Nats of grey pixels are
those of no probability: --binarization stochastic, static or threshold gives log-probabilities.

As in the tutorial, the encoder sees the whole image, and the decoder z alone: what y says reaches x through p(z | y).
Unlike the tutorial, training stops by validation images that are not those of the test, and the prior's network sees y
alone, not the plain network's prediction.
"""

import argparse
import copy
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pyro_vae
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.data import DataNotFoundError, ImageData
from pyro_vae.data.quadrants import MISSING, Quadrants
from pyro_vae.evaluation.latents.data_means import prior_means
from pyro_vae.guides import ConditionalGuide
from pyro_vae.models import ConditionalVAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.nn import MLP
from pyro_vae.plots.run import image_grid
from pyro_vae.runtime.files import write_bytes
from pyro_vae.statistics.paired_difference import paired_difference

PUBLISHED = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}
"""Of Pyro's tutorial, by the number of given quadrants: the plain network, minus the conditional VAE's ELBO."""

COLUMNS, COMPLETIONS = 10, 4
"""Of the figure: images, and draws for each."""


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Predict the missing quadrants of digits by a plain network and by a conditional VAE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--quadrants", type=int, nargs="+", default=[1, 2, 3], help="numbers of given quadrants")
    add("--data", default="mnist", help="a data set's name; mnist-5k where that one is not installed")
    add("--binarization", default="none", help="of the missing pixels: none, stochastic, static or threshold")
    add("--base", default="mean_field", help="the guide, of x and y; 'NAME(option=value)'")
    add("--latent_dim", type=int, default=200, help="dimension of z")
    add("--hidden_dims", type=int, nargs="+", default=[500, 500], help="hidden layers of every network")
    add("--activation", default="relu", help="of every network")
    add("--decoder_sees_y", action="store_true", help="p(x | z, y) in place of p(x | z)")
    add("--plain_prior", action="store_true", help="p(z) in place of p(z | y)")
    add("--valid_size", type=int, help="training images held out, by which training stops; by default the data set's")
    add("--epochs", type=int, default=5, help="passes over the training images, at most; Pyro's tutorial: 50")
    add("--patience", type=int, default=3, help="epochs without a better validation bound, after which training stops")
    add("--batch_size", type=int, default=128, help="images a step")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate")
    add("--num_samples", type=int, default=100, help="K, importance samples an image; as many for the ELBO")
    add("--num_test", type=int, default=1000, help="test images to measure")
    add("--seed", type=int, default=0, help="of parameters, data order and noise")
    add("--compile", choices=["off", "trace", "inductor", "auto"], default="trace", help="how steps run: see fit")
    add_out(parser, "quadrants", "the runs, the table and the figures")
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.data, args.quadrants, args.latent_dim, args.hidden_dims = "mnist-5k", args.quadrants[:2], 5, [20]
        args.epochs, args.num_samples, args.num_test = 1, 10, 20
    return args


def main() -> None:
    """Train, measure, print, draw."""
    args = parse_args()
    args.out = choose_out(args, "quadrants")
    args.out.mkdir(parents=True, exist_ok=True)
    whole = load(args)
    num_test = min(args.num_test, len(whole.test_images))
    print(
        f"{whole}\n{num_test} test images, minus log p(x | y) of the missing pixels in nats per image, in brackets the "
        f"standard error over images; K = {args.num_samples}.\n"
    )
    heads = ("given", "plain network", "conditional VAE", "minus its ELBO", "plain - conditional")
    print("".join(f"{head:>20s}" for head in heads), flush=True)
    rows: dict[str, dict[str, Any]] = {}
    for number in args.quadrants:
        data = load(args, number)
        rows[str(number)] = row = fit_and_measure(args, number, data)
        cells = [row["plain"], row["conditional"], row["minus_elbo"], row["difference"]]
        printed = [f"{cell['mean']:.2f} ({cell['data_standard_error']:.2f})" for cell in cells]
        print("".join(f"{cell:>20s}" for cell in [str(number), *printed]), flush=True)
        if number in PUBLISHED and whole.name == "mnist" and args.binarization == "none":
            plain, minus_elbo = PUBLISHED[number]
            print("".join(f"{cell:>20s}" for cell in ("Pyro's tutorial", f"{plain}", "", f"{minus_elbo}")), flush=True)
        table = json.dumps({"data": whole.describe(), "num_samples": args.num_samples, "given": rows}, indent=2)
        write_bytes(args.out / "table.json", f"{table}\n".encode())
    print(f"\nTable and figures are in {args.out}.")


def load(args: argparse.Namespace, number: int | None = None) -> ImageData:
    """Return the images, whole or with a number of given quadrants."""
    options = {
        "binarization": args.binarization, "seed": args.seed, "quadrants": number, "download": False,
        "valid_size": args.valid_size,
    }  # fmt: skip
    try:
        return pyro_vae.load_data(args.data, **options)
    except DataNotFoundError as error:
        if number is None:
            print(f"{error}\nGoes on with mnist-5k.\n")
        return pyro_vae.load_data("mnist-5k", **options)


def fit_and_measure(args: argparse.Namespace, number: int, data: ImageData) -> dict[str, Any]:
    """Train both, measure them on the test images, and draw them."""
    x, y = data.first(args.num_test)
    torch.manual_seed(args.seed)
    network = PlainNetwork(data, args)
    network.fit(data, args)
    plain = network.log_prob(x, y)
    model, guide = make_pair(args, data)
    progress = False if args.quiet else None
    run = pyro_vae.fit(
        model, guide, data, optimizer=partial(torch.optim.Adam, lr=args.lr, fused=True), epochs=args.epochs,
        batch_size=args.batch_size, patience=args.patience, seed=args.seed, progress=progress, compile=args.compile,
        out=args.out / f"given_{number}", resume=args.resume,
    )  # fmt: skip
    options = {"num_samples": args.num_samples, "seed": args.seed, "progress": progress}
    evidence = pyro_vae.log_likelihood(model, guide, (x, y), **options)
    terms = pyro_vae.elbo_terms(model, guide, (x, y), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        completions(model, network, data).savefig(args.out / f"completions_{number}.png")
    gain = paired_difference(evidence.per_datum, plain)
    return {
        "plain": negative(plain), "conditional": negative(evidence.per_datum, evidence.standard_error),
        "minus_elbo": negative(terms.elbo.per_datum, terms.elbo.standard_error),
        "difference": {"mean": gain.mean_difference, "data_standard_error": gain.image_standard_error},
        "epochs": len(run.history), "pareto_k": evidence.khat_in_words("threshold"),
    }  # fmt: skip


def negative(log_prob: Tensor, standard_error: float = 0.0) -> dict[str, float]:
    """Return minus a mean over images, its standard error over images, and that of sampling."""
    spread = (log_prob.std() / len(log_prob) ** 0.5).item()
    return {"mean": -log_prob.mean().item(), "data_standard_error": spread, "standard_error": standard_error}


def make_pair(args: argparse.Namespace, data: ImageData) -> tuple[ConditionalVAE, ConditionalGuide]:
    """Return the conditional VAE and its guide, before they are trained."""
    y_shape = data.train[1].shape[1:]
    sizes = {"latent_dim": args.latent_dim, "hidden_dims": args.hidden_dims, "activation": args.activation}
    likelihood = BernoulliLikelihood(
        data.x_shape, ConditionalVAE.likelihood_dim(args.latent_dim, y_shape=y_shape), args.hidden_dims,
        args.activation, soft_targets=args.binarization == "none",
        decoder=MLP if args.decoder_sees_y else partial(OfLatent, latent_dim=args.latent_dim),
    )  # fmt: skip
    model = ConditionalVAE(
        data.x_shape, conditional_prior=not args.plain_prior, y_shape=y_shape, likelihood=likelihood, **sizes
    )
    encoder = partial(OfWholeImage, quadrants=Quadrants(y_shape, data.quadrants))
    return model, ConditionalGuide(data.x_shape, base=args.base, y_shape=y_shape, encoder=encoder, **sizes)


class OfLatent(nn.Module):
    """A decoder of z alone, where a likelihood is called with z and y behind it."""

    def __init__(self, out_features: int, hidden_dims: Sequence[int], activation: str, *, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = MLP(latent_dim, hidden_dims, out_features, activation)

    def forward(self, z_and_y: Tensor) -> Tensor:
        """Return the features of rows ``(*batch, latent_dim + pixels)``."""
        return self.network(z_and_y[..., : self.latent_dim])


class OfWholeImage(nn.Module):
    """An encoder of the whole image, where it is called with the missing pixels and the image without them behind."""

    places: Tensor
    """Where each pixel of the whole image stands in such a row."""

    def __init__(self, out_features: int, hidden_dims: Sequence[int], activation: str, *, quadrants: Quadrants) -> None:
        super().__init__()
        pixels, number = math.prod(quadrants.image_shape), quadrants.x_shape[0]
        given = number + torch.arange(pixels).reshape(1, *quadrants.image_shape)
        places = quadrants.complete(torch.arange(number).unsqueeze(0), given)
        self.register_buffer("places", places.flatten())
        self.network = MLP(pixels, hidden_dims, out_features, activation)

    def forward(self, x_and_y: Tensor) -> Tensor:
        """Return the features of rows ``(*batch, missing pixels + pixels)``."""
        return self.network(x_and_y[..., self.places])


class PlainNetwork:
    """p(x | y) without a latent variable: independent Bernoulli pixels, with logits from an MLP of the given image."""

    def __init__(self, data: ImageData, args: argparse.Namespace) -> None:
        # The likelihood of a VAE, called with y in the place of z.
        self.law = BernoulliLikelihood(
            data.x_shape, data.train[1][0].numel(), args.hidden_dims, args.activation,
            soft_targets=args.binarization == "none",
        )  # fmt: skip

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log p(x | y) of each image, in blocks."""
        with torch.no_grad():
            blocks = [self.law(ys.flatten(1)).log_prob(xs) for xs, ys in zip(x.split(1000), y.split(1000), strict=True)]
        return torch.cat(blocks).double()

    def fit(self, data: ImageData, args: argparse.Namespace) -> None:
        """Maximise the mean of log p(x | y) over the training images, and keep the best epoch by the validation."""
        adam = torch.optim.Adam(self.law.parameters(), lr=args.lr)
        best, since, kept = -torch.inf, 0, self.law.state_dict()
        for _ in range(args.epochs):
            for rows in torch.randperm(len(data.train_images)).split(args.batch_size):
                x, y = data.observe(tuple(column[rows] for column in data.train))
                loss = -self.law(y.flatten(1)).log_prob(x).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
            bound = self.log_prob(*data.valid).mean().item()
            since = 0 if bound > best else since + 1
            if since == 0:
                best, kept = bound, copy.deepcopy(self.law.state_dict())
            elif since == args.patience:
                break
        self.law.load_state_dict(kept)

    def mean(self, y: Tensor) -> Tensor:
        """Return the probability of each missing pixel."""
        with torch.no_grad():
            return self.law(y.flatten(1)).mean


def completions(model: ConditionalVAE, network: PlainNetwork, data: ImageData) -> Figure:
    """Draw what is given, several completions p(x | z, y) with z ~ p(z | y), the plain network's, and the truth."""
    x, y = data.first(COLUMNS)
    quadrants = Quadrants(y.shape[1:], data.quadrants)
    drawn = prior_means(model, (x, y), COMPLETIONS * len(y)).unflatten(0, (COMPLETIONS, len(y)))
    predicted = [*drawn, network.mean(y), x]
    images = [y.where(y != MISSING, y.new_tensor(0.5)), *(quadrants.complete(part, y) for part in predicted)]
    names = ["given", *("drawn" for _ in drawn), "plain", "truth"]
    title = "the missing quadrants: draws of a conditional VAE, a plain network, the truth"
    return image_grid(torch.cat(images), len(y), title, names)


if __name__ == "__main__":
    run_script(main)
