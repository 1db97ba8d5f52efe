"""The report of a comparison: one page that needs no network, and its main table for a paper."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.comparison.cautions import cautions
from pyro_vae.comparison.comparison import Comparison
from pyro_vae.comparison.estimates import Configuration
from pyro_vae.report import figures as report_figures
from pyro_vae.report.figures import khat_shares, which_curve, which_gap
from pyro_vae.report.images import draw_cells
from pyro_vae.report.series import Series, series_of
from pyro_vae.report.svg import STYLE, to_svg
from pyro_vae.report.table import in_order, main_table, rankings_of, short, to_latex, to_markdown
from pyro_vae.report.text import best_of, commands, distinct, headline, settings_of, shown_ranking, subject
from pyro_vae.runtime.files import write_bytes

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = ["to_html", "to_latex", "to_markdown", "write_report"]

HTML, LATEX, MARKDOWN = "report.html", "report.tex", "report.md"

MAX_DRAWN = 6
"""Number of configurations whose images are shown by default: some 60 kB each, for images of 28 x 28."""


def write_report(
    comparison: Comparison, *, latex: bool = False, markdown: bool = False, max_drawn: int = MAX_DRAWN,
    out: Path | None = None, data: str | Path | None = None,
) -> Path:  # fmt: skip
    """Write ``report.html`` into a comparison's folder: tables, figures and images in one file that needs no network.

    Failed cells are listed with their errors, and missing pictures with the reason.

    Args:
        comparison: finished or not.
        latex: write the main table to ``report.tex`` as well.
        markdown: write it to ``report.md`` as well.
        max_drawn: number of configurations whose samples, reconstructions and traversals are shown, the best
            log-likelihoods first.
        out: folder to write to; by default that of the comparison.
        data: where the data are now, if they are no longer where the cells read them.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: ``max_drawn`` is negative.
        CheckpointError: the disk refuses.
    """
    out = comparison.path if out is None else out
    path = out / HTML
    write_bytes(path, to_html(comparison, max_drawn, data).encode())
    if latex:
        write_bytes(out / LATEX, to_latex(comparison).encode())
    if markdown:
        write_bytes(out / MARKDOWN, to_markdown(comparison).encode())
    return path


def to_html(comparison: Comparison, max_drawn: int = MAX_DRAWN, data: str | Path | None = None) -> str:
    """Return the page of :func:`write_report`; arguments and errors are the same."""
    import matplotlib
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if max_drawn < 0:
        raise ValueError(f"write_report: max_drawn must be at least 0; got {max_drawn}.")
    environment = Environment(
        loader=PackageLoader("pyro_vae.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"minus": lambda text: text.replace("-", "−"), "short": short}
    rankings, configurations = rankings_of(comparison), in_order(comparison)
    series = series_of(configurations)
    khats = []
    with matplotlib.rc_context(STYLE):
        figures = _figures(series) if series else []
        top = max((khat_shares(entry).max() for entry in series), default=0.0)
        for entry in series:
            figure = report_figures.khats([entry], top)
            khats.append((entry, _svg(figure, f"k-hats of {entry.name}", f"khat-{entry.number}")))
    first = [entry.configuration.results[0] for entry in series[:max_drawn]]
    finished = itertools.chain(*(configuration.results for configuration in configurations))
    single_cells = [Configuration(result.cell.label(comparison.varying), [result]) for result in finished]
    again, fits = commands(comparison)
    varying, common = settings_of(comparison)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        subject=subject(comparison),
        headline=headline(comparison),
        best=best_of(comparison, rankings),
        cautions=cautions(comparison),
        table=main_table(comparison, rankings, configurations),
        cells=main_table(comparison, {}, single_cells),
        better={
            name: "more" if quantity.better == "higher" else "less"
            for name, quantity in comparison.quantities.items()
            if quantity.better
        },
        rankings=[shown_ranking(comparison, quantity, ranking) for quantity, ranking in rankings.items()],
        series={entry.configuration.name: entry for entry in series},
        figures=figures,
        khats=khats,
        drawn=list(zip(series, draw_cells(first, comparison.path, data), strict=False)),
        varying=varying,
        common=common,
        data=distinct(result.evaluation["data"] for result in comparison.finished),
        environments=distinct(result.evaluation["environment"] for result in comparison.finished),
        again=again,
        fits=fits,
    )


def _figures(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the figures, each with its title, its caption, and whether it needs a legend of configurations."""
    several = any(len(entry.configuration.results) > 1 for entry in series)
    curve, split = which_curve(series), which_gap(series) == "inference_gap"
    images = "that of the test images whose gap was split" if split else "log p(x) − ELBO, of all test images"
    gap = f"Low and left is better. The gap is {images}; whiskers are a standard error over images and seeds."
    drawn = [
        ("budget", "Evidence budget", report_figures.budgets(series), False,
         "−ELBO is the reconstruction cost plus the rate, the nats that z carries. The line across each bar is an "
         "upper bound on −log p(x): the part of the bar beyond it is the inference gap. Means over seeds and all test "
         "images."),
        ("gaps", "What the bound lacks", report_figures.gaps(series), False,
         "log p(x) − ELBO. The approximation gap is the cost of the guide's family, the amortization gap the cost of "
         "choosing its member by an encoder. Whiskers are a standard error of the sum, over images and seeds."),
        ("curves", "Learning curves", report_figures.learning_curves(series, curve), True,
         f"The bound on {'validation' if curve == 'valid' else 'training'} images, "
         f"{'a line for each seed' if several else 'one seed each'}. A curve that still rises at its end needs more "
         f"epochs{'; a curve that falls shows overfitting to the training images' if curve == 'valid' else ''}."),
        ("plane", "Rate and distortion", report_figures.rate_distortion(series), True,
         "Down and left is better; along a dashed line the ELBO is the same. A small rate at a large cost means that "
         "little is encoded. Arms are standard deviations over seeds, dots the seeds. With one seed, arms are standard "
         "errors over test images, which configurations share: the rankings give more exact differences."),
        ("parameters", "Gap and size of the guide", report_figures.gap_against(series, "guide_parameters"), True, gap),
        ("seconds", "Gap and time to fit", report_figures.gap_against(series, "fit_seconds"), True,
         f"{gap} Seconds depend on the machine, its threads and its other work."),
    ]  # fmt: skip
    return [
        {"name": name, "title": title, "svg": _svg(figure, f"{title}. {caption}", name), "legend": legend,
         "caption": caption}
        for name, title, figure, legend, caption in drawn
    ]  # fmt: skip


def _svg(figure: "Figure", label: str, prefix: str) -> "Markup":
    """Return the result of :func:`to_svg`, marked as escaped already."""
    from markupsafe import Markup

    return Markup(to_svg(figure, label, prefix))
