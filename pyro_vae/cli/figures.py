"""`pyro-vae figures`: what a run looks like."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.output import Output, where_to
from pyro_vae.cli.runs import Fitted, add_moved_data, add_run, add_trust, open_run
from pyro_vae.cli.usage import Parser, a_path
from pyro_vae.evaluation import active_units
from pyro_vae.evaluation.over_data.posterior_means import draw_latent, posterior_means
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.parts import find_part, parse_part
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import in_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"

IMAGES = 30
"""Reconstructed."""

CENTER_DRAWS = 100
"""Whose mean is where a traversal starts from: a guide need not know its mean."""

ROWS = 10
"""Latent units that are traversed, the most active ones."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser(
        "figures",
        "RUN [flags]",
        f"Draw a run into RUN/{FIGURES}: its learning curves in nats a datum; and where its data are images and its "
        "model has a prior and a likelihood, reconstructions, prior samples, a traversal of the most active latent "
        "units, and for two of them under a standard normal prior the manifold.",
    )
    add_run(parser)
    help = "run whose model was taken over, where it is not beside this one"
    parser.add_argument("--decoder", type=a_path, metavar="RUN", help=help)
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
    prior, likelihood = (getattr(run.model, name, None) for name in ("prior", "likelihood"))
    if not callable(prior) or not callable(likelihood):
        output.note(f"The model {opened.cell.model} has no prior and likelihood of its own: no images are drawn.")
        return
    if len(data.x_shape) != 3 or data.x_shape[0] not in (1, 3):
        output.note(f"Data of shape {data.x_shape} are no images in grey or colour: none are drawn.")
        return
    x = data.test[:IMAGES]
    drawers: dict[str, Callable[[], Figure]] = {
        "reconstructions": lambda: plots.reconstructions(x, likelihood(draw_latent("figures", run.guide, x)).mean),
        "prior_samples": lambda: plots.prior_samples(prior, likelihood),
        "traversal": lambda: _traversal(opened, prior, likelihood, _center(run.guide, x)),
    }
    if opened.cell.latent_dim == 2 and isinstance(prior, StandardNormalPrior):
        drawers["manifold"] = lambda: plots.manifold(likelihood, like=_center(run.guide, x))
    # Its own noise: the caller's is left as it was.
    with torch.no_grad(), seeded(opened.cell.seed):
        for name, draw in drawers.items():
            try:
                yield name, draw()
            except Exception as reason:
                # A pair of the user's own may have several latent sites, or a law without a mean: the rest is drawn.
                output.note(f"{name} cannot be drawn: {in_one_line(reason)}")


def _traversal(opened: Fitted, prior: Any, likelihood: Any, center: Tensor) -> "Figure":
    dims = active_units(opened.run.guide, opened.data.test).most_active[:ROWS]
    return plots.latent_traversal(prior, likelihood, center, dims)


def _center(guide: Any, x: Tensor) -> Tensor:
    """Return the posterior mean of the first image, in the guide's dtype."""
    dtype = draw_latent("figures", guide, x[:1]).dtype
    return posterior_means("figures", guide, x[:1], None, CENTER_DRAWS).mean[0].to(dtype)


def _bound(opened: Fitted) -> str:
    """Return what to call the objective in a figure."""
    found = find_part("objective", parse_part("objective", opened.cell.objective)[0])
    return "ELBO" if found is Trace_ELBO else found.__name__
