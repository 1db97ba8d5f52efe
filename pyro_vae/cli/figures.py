"""`pyro-vae figures`: draw a run."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch

from pyro_vae import plots
from pyro_vae.cli.output import Output, where_to
from pyro_vae.cli.runs import add_run, open_run
from pyro_vae.cli.usage import Parser
from pyro_vae.comparison import Cell
from pyro_vae.data import ImageData
from pyro_vae.evaluation import active_units
from pyro_vae.fit import Run
from pyro_vae.models import VAE
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.parts import find_part, parse_part
from pyro_vae.programs.modules import as_args, as_input
from pyro_vae.protocols import Likelihood
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import in_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"

IMAGES = 30
"""Number of test images that are reconstructed."""

COLUMNS = 10
"""Number of test images whose missing quadrants are completed."""

ROWS = 10
"""Number of latent units that are traversed, the most active ones."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser(
        "figures",
        "RUN [flags]",
        f"Draw a run into RUN/{FIGURES}: its learning curves in nats a datum. If its data are images, also "
        "reconstructions, samples from the prior, and a traversal of the most active latent units; and for a VAE with "
        "two latent units and a standard normal prior, the manifold. If a datum has a label, samples are drawn in a "
        "row for each class; if quadrants of images are given, they are completed.",
    )
    add_run(parser, parser, "DIR", f"folder to draw into (default: RUN/{FIGURES})")
    what = "start the traversal from the first test image with label N (default: from the first test image)"
    parser.add_argument("--y", type=int, metavar="N", default=None, help=what)
    args = parser.read(argv)
    cell, data, run = open_run(args)
    folder = args.out or args.run / FIGURES
    with where_to(folder):
        folder.mkdir(parents=args.out is not None, exist_ok=True)
    written = []
    for name, figure in _figures(cell, data, run, output, args.y):
        file = folder / f"{name}.png"
        with where_to(folder):
            figure.savefig(file)
        written.append(str(file))
        output.say(str(file))
    output.give({"run": str(args.run), "figures": written})
    return 0


def _figures(
    cell: Cell, data: ImageData, run: Run, output: Output, label: int | None
) -> Iterator[tuple[str, "Figure"]]:
    """Yield each figure that the data and the model of a run allow, and print why others cannot be drawn."""
    classes = plots.rows_of_classes(data.test)
    if label is not None and label not in classes:
        known = ", ".join(map(str, classes)) or "none, as the data of the run have no labels beside the images"
        raise ValueError(f"{argument('y')}: no test image has the label {label}; there are {known}.")
    start = 0 if label is None else classes[label]
    objective = find_part("objective", parse_part("objective", cell.objective)[0])
    bound = "ELBO" if objective is Trace_ELBO else objective.__name__
    yield "learning_curves", plots.learning_curves(run.history, bound)
    if data.not_drawn and data.quadrants is None:
        output.note(data.not_drawn)
        return
    model, guide, x = run.model, run.guide, data.first(IMAGES)

    def traversal() -> "Figure":
        units = active_units(guide, data.test).most_active[:ROWS]
        first = as_input([column[start : start + 1] for column in as_args(data.test)])
        figure, _, left_out = plots.pair_traversal(model, guide, first, units)
        for unit, reason in left_out.items():
            output.note(f"The traversal leaves out {unit}: {reason}.")
        return figure

    drawers: dict[str, Callable[[], Figure]] = {
        "reconstructions": lambda: plots.pair_reconstructions(model, guide, x),
        "prior_samples": lambda: plots.class_samples(model, data.test) if classes else plots.model_samples(model, x),
        "traversal": traversal,
    }
    if data.quadrants is not None:
        number = data.quadrants
        drawers = {"completions": lambda: plots.completions(model, data.first(COLUMNS), number)}
    elif len(data.x_shape) != 3 or data.x_shape[0] not in (1, 3):
        output.note(f"Data of shape {data.x_shape} are no images in grey or colour: none are drawn.")
        return
    if isinstance(model, VAE) and cell.latent_dim == 2 and isinstance(model.prior, StandardNormalPrior):
        likelihood, like = cast(Likelihood, model.likelihood), next(model.parameters())
        drawers["manifold"] = lambda: plots.manifold(likelihood, like)
    # The noise comes from the cell's seed; the caller's generator is not moved.
    with torch.no_grad(), seeded(cell.seed):
        for name, draw in drawers.items():
            try:
                yield name, draw()
            except Exception as reason:
                # A user's own pair may have a distribution without a mean; the other figures are still drawn.
                output.note(f"{name} cannot be drawn: {in_one_line(reason)}")
