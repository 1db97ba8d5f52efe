"""Figures of a comparison: budgets, gaps, learning curves, the rate-distortion plane, gap against cost, k-hats.

Every function draws one or more :class:`Series`, which have the same number and colour in all figures, and returns a
matplotlib ``Figure`` without a window. The page draws them under :data:`pyro_vae.report.svg.STYLE`, and inserts them by
:func:`pyro_vae.report.svg.to_svg`. matplotlib is imported when something is drawn.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.comparison.estimates import BOUND_GAP, MeanOverSeeds, estimate, numbers
from pyro_vae.report.series import COLOURS, OTHERS, Series
from pyro_vae.report.svg import FOREGROUND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Width of a figure in inches: letters are large enough to read on a telephone."""

BINS = np.linspace(-0.5, 1.5, 41)
"""Ends of the bins of k-hats; values outside are counted in the outermost bins."""

CUT_AFTER = 20
"""Number of epochs above which the first values of a learning curve may lie outside of the figure."""


def budgets(series: Sequence[Series]) -> "Figure":
    """Draw -ELBO as reconstruction cost plus rate, one bar a configuration, with a tick at -log p^(x).

    Values are means over seeds and test images, in nats. The part of a bar to the right of the tick is the gap.
    """
    figure, axes = _bars(series)
    for row, entry in enumerate(series):
        cost, rate, evidence = -_mean(entry, "reconstruction"), _mean(entry, "rate"), -_mean(entry, "log_likelihood")
        axes.barh(row, cost, color=COLOURS[0], label="reconstruction cost")
        axes.barh(row, rate, left=cost, color=COLOURS[1], label="rate")
        axes.plot([evidence] * 2, [row - 0.48, row + 0.48], color=FOREGROUND, label="−log p(x)")
    _legend(figure, axes)
    return figure


def gaps(series: Sequence[Series]) -> "Figure":
    """Draw log p^(x) - ELBO in nats, as approximation plus amortization gap, or as one bar if they were not measured.

    Whiskers are one standard error of the sum, over images and seeds.
    """
    figure, axes = _bars(series)
    for row, entry in enumerate(series):
        whole = estimate(entry.configuration, "inference_gap")
        if whole is None:
            whole = estimate(entry.configuration, BOUND_GAP)
            axes.barh(row, math.nan if whole is None else whole.mean, color=OTHERS, label="not split")
        else:
            approximation, amortization = _mean(entry, "approximation_gap"), _mean(entry, "amortization_gap")
            axes.barh(row, approximation, color=COLOURS[3], label="approximation gap")
            axes.barh(row, amortization, left=approximation, color=COLOURS[2], label="amortization gap")
        if whole is not None:
            axes.errorbar(whole.mean, row, xerr=whole.standard_error, color=FOREGROUND, capsize=3, linewidth=1)
    _legend(figure, axes)
    return figure


def learning_curves(series: Sequence[Series], curve: str) -> "Figure":
    """Draw the bound against the epoch, one line a cell.

    Args:
        series: to draw.
        curve: "valid" or "train", as :func:`which_curve` returns it.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _single((WIDTH, 3.2))
    ends: list[tuple[float, Series]] = []
    highest, last, longest = [], [], 1
    for entry in reversed(series):  # so that the first lie above the others
        for result in entry.configuration.results:
            values = np.array([row[f"{curve}_bound_nats"] for row in result.history])
            epochs = [row["epoch"] for row in result.history]
            axes.plot(epochs, values, color=entry.colour, linewidth=1.2, marker=".", markevery=[-1])
            finite = values[np.isfinite(values)]
            if len(finite):
                highest.append(finite.max())
                last.append(np.quantile(finite, 0.05) if len(values) > CUT_AFTER else finite.min())
                longest = max(longest, len(values))
        if entry.highlighted and entry.configuration.results[0].history:
            ends.append((entry.configuration.results[0].history[-1][f"{curve}_bound_nats"], entry))
    if highest:
        low, high = min(last), max(highest)
        room = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
        axes.set_xlim(1 - 0.04 * longest, 1.12 * longest)
        _number_ends(axes, ends, longest * 1.03, (high - low + 2 * room) / 22)
    axes.set(xlabel="epoch", ylabel="bound (nats per image)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def which_curve(series: Sequence[Series]) -> str:
    """Return "valid" where each cell has bounds on validation images, else "train"."""
    histories = [result.history for entry in series for result in entry.configuration.results]
    return "valid" if all(math.isfinite(row["valid_bound_nats"]) for rows in histories for row in rows) else "train"


def rate_distortion(series: Sequence[Series]) -> "Figure":
    """Draw the rate against the reconstruction cost, in nats; the ELBO is constant along a dashed line.

    Crosses are means over seeds, their arms a standard deviation over seeds, or with one seed a standard error over
    test images; dots are the seeds.
    """
    figure, axes = _single((WIDTH, 3.6))
    for entry in reversed(series):
        cost, rate = (estimate(entry.configuration, name) for name in ("reconstruction", "rate"))
        if cost is None or rate is None:
            continue
        alone = math.isnan(cost.spread)
        arms = (cost.data, rate.data) if alone else (cost.spread, rate.spread)
        axes.errorbar(-cost.mean, rate.mean, xerr=arms[0], yerr=arms[1], color=entry.colour, marker="o", markersize=4)
        if not alone:
            cells = [result.measured["elbo_terms"] for result in entry.configuration.results]
            dots = [-cell["reconstruction"]["mean"] for cell in cells], [cell["rate"]["mean"] for cell in cells]
            axes.plot(*dots, ".", color=entry.colour, markersize=4, alpha=0.7)
        _number(axes, entry, -cost.mean, rate.mean)
    axes.margins(0.12)
    _lines_of_equal_elbo(axes)
    axes.set(xlabel="reconstruction cost (nats per image)", ylabel="rate (nats per image)")
    return figure


def gap_against(series: Sequence[Series], cost: str) -> "Figure":
    """Draw the gap of each configuration against the cost of its guide.

    Args:
        series: to draw. The gap is the inference gap if all configurations have one, else log p^(x) - ELBO. Whiskers
            are one standard error over images and seeds.
        cost: "guide_parameters" or "fit_seconds".
    """
    from matplotlib.ticker import EngFormatter, NullFormatter

    figure, axes = _single((WIDTH, 3.0))
    quantity = which_gap(series)
    points: list[tuple[Series, float, MeanOverSeeds]] = []
    for entry in reversed(series):
        gap, costs = estimate(entry.configuration, quantity), numbers(entry.configuration, cost)
        if gap is not None and costs:
            points.append((entry, sum(costs) / len(costs), gap))
    places = [x for _, x, _ in points]
    if max(places, default=0) > 3 * min(places, default=0) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    for entry, x, gap in points:
        axes.errorbar(x, gap.mean, yerr=gap.standard_error, color=entry.colour, marker="o", markersize=4, capsize=2)
        _number(axes, entry, x, gap.mean)
    axes.margins(0.12)
    _few_ticks(axes)
    axis_labels = {"guide_parameters": "parameters of the guide", "fit_seconds": "seconds to fit"}
    axes.set(xlabel=axis_labels[cost], ylabel="gap (nats per image)")
    return figure


def which_gap(series: Sequence[Series]) -> str:
    """Return "inference_gap" where each configuration has it, else "bound_gap"."""
    measured = all(estimate(entry.configuration, "inference_gap") is not None for entry in series)
    return "inference_gap" if measured else BOUND_GAP


def khats(series: Sequence[Series], top: float) -> "Figure":
    """Draw a histogram of the k-hats of all images and seeds of one configuration, with the threshold.

    Args:
        series: the one to draw.
        top: the largest of the :func:`khat_shares` of all histograms on the page, which share one axis.
    """
    (entry,) = series
    figure, axes = _single((2.4, 1.4))
    axes.stairs(100 * khat_shares(entry), BINS, fill=True, color=entry.colour)
    threshold = entry.configuration.results[0].measured["log_likelihood"]["khat_threshold"]
    axes.axvline(threshold, color=FOREGROUND, linewidth=1, linestyle="--")
    axes.set_ylim(0, 105 * top or 1)
    axes.set_xticks([-0.5, 0, 0.5, 1, 1.5], ["≤ −0.5", "0", "0.5", "1", "≥ 1.5"])
    axes.set(xlabel="k-hat", ylabel="% of images")
    return figure


def khat_shares(entry: Series) -> np.ndarray:
    """Return the share of images and seeds in each of :data:`BINS`; images without a k-hat are in no bin."""
    values = np.concatenate(
        [result.per_datum["log_likelihood.pareto_k"].double().numpy() for result in entry.configuration.results]
    )
    finite = np.clip(values[~np.isnan(values)], BINS[0], BINS[-1])
    return np.histogram(finite, BINS)[0] / max(len(values), 1)


def _single(size: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _bars(series: Sequence[Series]) -> "tuple[Figure, Axes]":
    """Return a figure with a row for each configuration, the first at the top."""
    lines = sum(1 + 0.45 * (entry.label.count("\n")) for entry in series)
    figure, axes = _single((WIDTH, 1.0 + 0.3 * lines))
    axes.set_yticks(range(len(series)), [entry.label for entry in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("nats per image")
    return figure, axes


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Add a legend above the axes, with each label once."""
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=3, frameon=False, handlelength=1)


def _mean(entry: Series, quantity: str) -> float:
    mean = estimate(entry.configuration, quantity)
    return math.nan if mean is None else mean.mean


def _number(axes: "Axes", entry: Series, x: float, y: float) -> None:
    axes.annotate(
        str(entry.number), (x, y), (4, 4), textcoords="offset points", color=entry.colour, fontsize=8, fontweight="bold"
    )


def _number_ends(axes: "Axes", ends: Sequence[tuple[float, Series]], x: float, step: float) -> None:
    """Write each curve's number to the right of its end, and move overlapping numbers apart."""
    ordered = sorted((end for end in ends if math.isfinite(end[0])), key=lambda end: -end[0])
    heights: list[float] = []
    for y, _ in ordered:
        heights.append(min(y, heights[-1] - step) if heights else y)
    back = sum(y - height for (y, _), height in zip(ordered, heights, strict=True)) / max(len(ordered), 1)
    for (_, entry), height in zip(ordered, heights, strict=True):
        axes.text(x, height + back, str(entry.number), color=entry.colour, fontsize=8, fontweight="bold", va="center")


def _lines_of_equal_elbo(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(6).tick_values(left + bottom, right + top):
        axes.plot([left, right], [total - left, total - right], "--", color=FOREGROUND, alpha=0.25, linewidth=0.7)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _few_ticks(axes: "Axes") -> None:
    """Put ticks at round values on a logarithmic axis of less than two decades, which may have no ticks otherwise."""
    low, high = axes.get_xlim()
    if axes.get_xscale() == "log" and high < 100 * low:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        for digits in ((1, 2, 5), (1, 2, 3, 4, 6, 8), np.arange(1, 10, 0.5)):
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) > 2:
                break
        axes.set_xticks(ticks)
        axes.set_xticks([], minor=True)
