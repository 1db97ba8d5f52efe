"""The main table of a comparison, as data for the report, as LaTeX and as Markdown."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyro_vae.comparison.comparison import QUANTITIES, Comparison, Configuration
from pyro_vae.comparison.estimates import KHAT_ABOVE, Estimate, estimate, numbers
from pyro_vae.runtime.wording import rounded_error
from pyro_vae.statistics.ranking import Ranking

Rankings = Mapping[str, Ranking | str]
"""By quantity; what stands in the way where there is none."""

TITLES = {
    "cells": "seeds",
    "elbo": "ELBO",
    "log_likelihood": "log p(x) ≥",
    "bits_per_dim": "bits/dim ≤",
    "approximation_gap": "approximation gap",
    "amortization_gap": "amortization gap",
    "inference_gap": "inference gap",
    "reconstruction": "reconstruction",
    "rate": "rate",
    "active_units": "active units",
    KHAT_ABOVE: "k-hat above, %",
    "guide_parameters": "guide parameters",
    "model_parameters": "model parameters",
    "fit_seconds": "fit, s",
    "evaluation_seconds": "evaluation, s",
}
"""Of the columns, in their order."""

COUNTED = ("active_units", "guide_parameters", "model_parameters", "fit_seconds", "evaluation_seconds")
"""Columns of numbers that have no error but their spread over seeds."""

NO_BOUND = "log p(x), no bound"
"""What the log-likelihood is called where a cell has soft targets."""

NOTE = (
    "Means over seeds and test images, in nats per image where no unit is given. With each mean its errors: MC, the "
    "Monte Carlo standard error; data, the standard error over test images; seeds, the standard deviation over seeds. "
    "k-hat above: the share of images whose k-hat is above its threshold, where log p(x) is not dependable, of those "
    "that have a k-hat."
)

_OWN_CLASS = re.compile(r"[^\s(,]*[/\\]([^/\\\s]+\.py:)")
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A number of the table."""

    value: float = math.nan
    """To sort by; NaN where there is none."""
    text: str = "–"
    errors: Mapping[str, str] = field(default_factory=dict)
    """Those that are known, by the names that :data:`NOTE` explains."""
    best: bool = False
    """Whether no configuration is told apart as better."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return math.isnan(self.value) and self.text == Entry.text


@dataclass(frozen=True)
class Table:
    """A row a configuration."""

    columns: Sequence[str]
    """Keys of :data:`TITLES`."""
    rows: Mapping[str, Sequence[Entry]] = field(repr=False)
    """By the configuration's name, an entry a column."""
    bounded: bool = True
    """Whether the log-likelihoods are lower bounds."""

    @property
    def titles(self) -> list[str]:
        """The columns' heads."""
        return [NO_BOUND if key == "log_likelihood" and not self.bounded else TITLES[key] for key in self.columns]


def main_table(comparison: Comparison, rankings: Rankings, configurations: Sequence[Configuration]) -> Table:
    """Return the table of some configurations, without columns of which nothing was measured.

    Args:
        comparison: that they are of.
        rankings: in which to look up who is not told apart from the best.
        configurations: a row each, in this order: the comparison's, or cells as if each were one.
    """
    columns = {key: _column(comparison, key, rankings.get(key), configurations) for key in TITLES}
    columns = {key: column for key, column in columns.items() if not all(entry.empty for entry in column)}
    rows = {one.name: [column[at] for column in columns.values()] for at, one in enumerate(configurations)}
    bounded = all(result.evaluation["log_likelihood"].get("bound", True) for result in comparison.finished)
    return Table(list(columns), rows, bounded)


def to_markdown(comparison: Comparison) -> str:
    """Return the main table of a comparison as Markdown.

    Where a quantity is ranked, those are bold that no other configuration is told apart from as better.
    """
    table = ranked_table(comparison)
    lines = [
        f"| configuration | {' | '.join(table.titles)} |",
        f"|---|{'---:|' * len(table.columns)}",
    ]
    for name, entries in table.rows.items():
        shown = [f"**{entry.text}**" if entry.best else entry.text for entry in entries]
        errors = [", ".join(f"{error} {size}" for error, size in entry.errors.items()) for entry in entries]
        shown = [f"{text} ({behind})" if behind else text for text, behind in zip(shown, errors, strict=True)]
        lines.append(f"| {_code(short(name))} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", NOTE, ""])


def to_latex(comparison: Comparison) -> str:
    """Return the main table of a comparison for LaTeX with the package ``booktabs``.

    Where a quantity is ranked, those are bold that no other configuration is told apart from as better.
    """
    table = ranked_table(comparison)
    lines = [
        r"% Needs \usepackage{booktabs}. It is wide: set it sideways, or leave out columns.",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(NOTE)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["configuration", *map(_latex_title, table.titles)]) + r" \\",
        r"\midrule",
    ]
    for name, entries in table.rows.items():
        lines.append(" & ".join([_latex(short(name)), *map(_latex_number, entries)]) + r" \\")
        for error in ("MC", "data", "seeds"):
            sizes = [_latex(entry.errors.get(error, "")) for entry in entries]
            if any(sizes):
                lines.append(rf"\quad {error} & {' & '.join(sizes)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def ranked_table(comparison: Comparison) -> Table:
    """Return the table of all configurations, the best log-likelihood first."""
    return main_table(comparison, rankings_of(comparison), in_order(comparison))


def rankings_of(comparison: Comparison) -> dict[str, Ranking | str]:
    """Return the ranking of each quantity that a finished cell has, or why there is none."""
    found: dict[str, Ranking | str] = {}
    for quantity in QUANTITIES:
        if any(quantity in result.per_datum for result in comparison.finished):
            try:
                found[quantity] = comparison.ranking(quantity)
            except ValueError as error:
                found[quantity] = str(error)
    return found


def in_order(comparison: Comparison) -> list[Configuration]:
    """Return all configurations, the best mean log-likelihood first, those without finished cells last."""

    def key(one: Configuration) -> float:
        found = estimate(one, "log_likelihood")
        return math.inf if found is None else -found.mean

    return sorted(comparison.configurations.values(), key=key)


def short(name: str) -> str:
    """Return a name without the folders of classes of the user's own.

    >>> short("../parts/mine.py:Guide(scale=2), latent_dim 5")
    'mine.py:Guide(scale=2), latent_dim 5'
    """
    return _OWN_CLASS.sub(r"\1", name)


def errors_of(found: Estimate) -> dict[str, str]:
    """Return the errors of a mean that are known, by name."""
    named = {"MC": found.monte_carlo, "data": found.data, "seeds": found.spread}
    return {name: rounded_error(error) for name, error in named.items() if not math.isnan(error)}


def _column(
    comparison: Comparison, key: str, ranking: Ranking | str | None, configurations: Sequence[Configuration]
) -> list[Entry]:
    if key == "cells":
        settings = [name for name in comparison.varying if name != "seed"]
        cells = Counter(result.cell.label(settings) for result in comparison.results)
        return [_of_cells(len(one.results), cells[one.name]) for one in configurations]
    if key in COUNTED:
        return [_of_numbers(numbers(one, key)) for one in configurations]
    found = [_in_unit(one, key) for one in configurations]
    # All means of a column have as many decimals.
    digits = 1 if key == KHAT_ABOVE else max((one.decimals for one in found if one is not None), default=0)
    best = ranking.best if isinstance(ranking, Ranking) else ()
    return [
        Entry()
        if one is None
        else Entry(one.mean, f"{one.mean:.{digits}f}", errors_of(one), configuration.name in best)
        for one, configuration in zip(found, configurations, strict=True)
    ]


def _in_unit(one: Configuration, key: str) -> Estimate | None:
    """Return the mean of a column's quantity, in the column's unit."""
    if key == KHAT_ABOVE:
        share = estimate(one, key)
        return None if share is None else share.times(100)
    if key != "bits_per_dim":
        return estimate(one, key)
    evidence = [
        result.evaluation["log_likelihood"] for result in one.results if key in result.evaluation["log_likelihood"]
    ]
    nats = estimate(one, "log_likelihood")
    # In all cells of a configuration a nat is as many bits of each element.
    return nats.times(evidence[0][key] / evidence[0]["log_likelihood_nats"]) if nats is not None and evidence else None


def _of_cells(done: int, cells: int) -> Entry:
    return Entry(done, str(done) if done == cells else f"{done} of {cells}") if cells else Entry()


def _of_numbers(values: Sequence[float]) -> Entry:
    """Return the mean of numbers that have no error but their spread over seeds."""
    if not values:
        return Entry()
    mean = sum(values) / len(values)
    text = f"{mean:,.0f}" if mean >= 100 or all(value.is_integer() for value in (*values, mean)) else f"{mean:.3g}"
    if len(set(values)) == 1:
        return Entry(mean, text)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Entry(mean, text, {"seeds": f"{spread:.2g}" if spread < 100 else f"{spread:,.0f}"})


def _code(text: str) -> str:
    """Return text as a piece of code in a cell of a Markdown table."""
    text = " ".join(text.split()).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_title(title: str) -> str:
    """Return the head of a column, a line a word but for formulas."""
    if title.startswith("log p(x)"):
        return _latex(title).replace("log p(x)", r"$\log p(x)$")
    return rf"\shortstack[r]{{{_latex(title).replace(' ', chr(92) * 2)}}}"


def _latex_number(entry: Entry) -> str:
    number = _latex(entry.text) if math.isnan(entry.value) else entry.text.replace("-", "$-$").replace(",", r"\,")
    return rf"\textbf{{{number}}}" if entry.best else number
