"""`pyro-vae figures`: what a run looks like."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch

from pyro_vae import plots
from pyro_vae.cli.output import Output, where_to
from pyro_vae.cli.runs import Fitted, add_moved_data, add_run, add_trust, open_run
from pyro_vae.cli.usage import Parser, a_path
from pyro_vae.evaluation import active_units
from pyro_vae.models import VAE
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.parts import find_part, parse_part
from pyro_vae.protocols import Likelihood
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import in_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"

IMAGES = 30
"""Reconstructed."""

ROWS = 10
"""Latent units that are traversed, the most active ones."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser(
        "figures",
        "RUN [flags]",
        f"Draw a run into RUN/{FIGURES}: its learning curves in nats a datum; and where its data are images, "
        "reconstructions, samples from the prior, a traversal of the most active latent units, and for a VAE with two "
        "of them under a standard normal prior the manifold.",
    )
    add_run(parser)
    help = "run whose model was taken over, where it is not beside this one"
    parser.add_argument("--fitted_model", type=a_path, metavar="RUN", help=help)
    help = f"folder to draw into (default: RUN/{FIGURES})"
    parser.add_argument("--out", type=a_path, metavar="DIR", default=None, help=help)
    add_moved_data(parser)
    add_trust(parser)
    parser.add_switches()
    args = parser.read(argv)
    opened = open_run(args)
    folder = args.out or args.run / FIGURES
    with where_to(folder):
        folder.mkdir(parents=args.out is not None, exist_ok=True)
    written = []
    for name, figure in _figures(opened, output):
        file = folder / f"{name}.png"
        with where_to(folder):
            figure.savefig(file)
        written.append(str(file))
        output.say(str(file))
    output.give({"run": str(args.run), "figures": written})
    return 0


def _figures(opened: Fitted, output: Output) -> Iterator[tuple[str, "Figure"]]:
    run, data = opened.run, opened.data
    yield "learning_curves", plots.learning_curves(run.history, _bound(opened))
    if len(data.x_shape) != 3 or data.x_shape[0] not in (1, 3):
        output.note(f"Data of shape {data.x_shape} are no images in grey or colour: none are drawn.")
        return
    x = data.first(IMAGES)
    drawers: dict[str, Callable[[], Figure]] = {
        "reconstructions": lambda: plots.pair_reconstructions(run.model, run.guide, x),
        "prior_samples": lambda: plots.model_samples(run.model, x),
        "traversal": lambda: _traversal(opened, output),
    }
    model = run.model
    if isinstance(model, VAE) and opened.cell.latent_dim == 2 and isinstance(model.prior, StandardNormalPrior):
        likelihood, like = cast(Likelihood, model.likelihood), next(model.parameters())
        drawers["manifold"] = lambda: plots.manifold(likelihood, like)
    # Its own noise: the caller's is left as it was.
    with torch.no_grad(), seeded(opened.cell.seed):
        for name, draw in drawers.items():
            try:
                yield name, draw()
            except Exception as reason:
                # A pair of the user's own may have a law without a mean: the rest is drawn.
                output.note(f"{name} cannot be drawn: {in_one_line(reason)}")


def _traversal(opened: Fitted, output: Output) -> "Figure":
    """Draw the most active units from the first test image on, and say which cannot be drawn."""
    run, data = opened.run, opened.data
    units = active_units(run.guide, data.test).most_active[:ROWS]
    figure, _, left_out = plots.pair_traversal(run.model, run.guide, data.first(1), units)
    for unit, reason in left_out.items():
        output.note(f"The traversal leaves out {unit}: {reason}.")
    return figure


def _bound(opened: Fitted) -> str:
    """Return what to call the objective in a figure."""
    found = find_part("objective", parse_part("objective", opened.cell.objective)[0])
    return "ELBO" if found is Trace_ELBO else found.__name__
