"""The main table of a comparison, as data for the report, as LaTeX and as Markdown."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyro_vae.comparison.comparison import Comparison
from pyro_vae.comparison.estimates import Configuration, MeanOverSeeds, estimate, is_measured, numbers
from pyro_vae.comparison.results import ELBO
from pyro_vae.runtime.wording import rounded_error
from pyro_vae.statistics.ranking import Ranking

Rankings = Mapping[str, Ranking | str]
"""By quantity: its ranking, or the reason why there is none."""

CELLS = "seeds"
"""The column with the number of seeds of a row."""

COSTS = {
    "guide_parameters": "guide parameters",
    "model_parameters": "model parameters",
    "fit_seconds": "fit, s",
    "evaluation_seconds": "evaluation, s",
}
"""The last columns: the costs of a cell."""

LEADING = ("elbo", "log_likelihood", "bits_per_dim")
"""Quantities whose columns come first."""

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
    """The number, by which rows are sorted; NaN if there is none."""
    text: str = "–"
    errors: Mapping[str, str] = field(default_factory=dict)
    """By the names that :data:`NOTE` explains; an unknown error is missing, or "unknown"."""
    best: bool = False
    """Whether no other configuration is significantly better."""


@dataclass(frozen=True)
class Table:
    """A table with a row for each configuration."""

    heads: Mapping[str, str]
    """The title of each column, by its quantity."""
    rows: Mapping[str, Sequence[Entry]] = field(repr=False)
    """By the configuration's name, an entry for each column."""


def main_table(comparison: Comparison, rankings: Rankings, configurations: Sequence[Configuration]) -> Table:
    """Return the table of some configurations, without empty columns.

    Args:
        comparison: the comparison of these configurations.
        rankings: the rankings, which say whose entries are ``best``.
        configurations: the rows, in this order: configurations of the comparison, or one for each cell.
    """
    heads = _heads(comparison)
    columns = {key: _column(comparison, key, rankings.get(key), configurations) for key in heads}
    columns = {key: column for key, column in columns.items() if column}
    names = [configuration.name for configuration in configurations]
    rows = {name: [column.get(name, Entry()) for column in columns.values()] for name in names}
    return Table({key: heads[key] for key in columns}, rows)


def _heads(comparison: Comparison) -> dict[str, str]:
    """Return the title of each possible column, by its quantity, in the table's order."""
    quantities = comparison.quantities
    ordered = [*(name for name in LEADING if name in quantities), *(name for name in quantities if name not in LEADING)]
    heads = {CELLS: CELLS}
    for name in ordered:
        measured = [result.measured.get(quantities[name].evaluation, {}) for result in comparison.finished]
        bound = all(summary.get("bound", True) for summary in measured)
        heads[name] = quantities[name].head(bound) + _of_fewer(comparison, name)
    return heads | COSTS


def _of_fewer(comparison: Comparison, quantity: str) -> str:
    """Return ", N = " and the number of images of a quantity's means, if a cell has more test images; else "".

    It is "" also for a quantity without a value for each image.
    """
    sizes: set[int] = set()
    fewer = False
    for result in comparison.finished:
        values = result.values_of(quantity)
        if values is not None:
            sizes.add(len(values))
            fewer |= len(values) < len(result.per_datum[ELBO])
    return f", N = {' or '.join(map(str, sorted(sizes)))}" if fewer else ""


def to_markdown(comparison: Comparison) -> str:
    """Return the main table of a comparison as Markdown, and below it which evaluations measured nothing.

    In the column of a ranked quantity, means are bold unless another configuration is significantly better.
    """
    table = ranked_table(comparison)
    lines = [f"| configuration | {' | '.join(table.heads.values())} |", f"|---|{'---:|' * len(table.heads)}"]
    for name, entries in table.rows.items():
        texts = [f"**{entry.text}**" if entry.best else entry.text for entry in entries]
        errors = [f" ({in_words(entry.errors)})" if entry.errors else "" for entry in entries]
        lines.append(f"| {_code(short(name))} | {' | '.join(map(''.join, zip(texts, errors, strict=True)))} |")
    for sentence in comparison.failed_evaluations:
        lines += ["", _plain(sentence)]
    return "\n".join([*lines, "", NOTE, ""])


def to_latex(comparison: Comparison) -> str:
    """Return the main table of a comparison for LaTeX with the package ``booktabs``.

    In the column of a ranked quantity, means are bold unless another configuration is significantly better.
    """
    table = ranked_table(comparison)
    lines = [
        r"% Needs \usepackage{booktabs}. It is wide: set it sideways, or leave out columns.",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(NOTE)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.heads)}}}",
        r"\toprule",
        " & ".join(["configuration", *map(_latex_title, table.heads.values())]) + r" \\",
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
    """Return the ranking of each quantity that a finished cell has measured, or the reason why there is none."""
    rankings: dict[str, Ranking | str] = {}
    for name, quantity in comparison.quantities.items():
        if quantity.better and any(result.values_of(name) is not None for result in comparison.finished):
            try:
                rankings[name] = comparison.ranking(name)
            except ValueError as error:
                rankings[name] = str(error)
    return rankings


def in_order(comparison: Comparison) -> list[Configuration]:
    """Return all configurations, the best mean log-likelihood first, those without finished cells last."""

    def key(configuration: Configuration) -> float:
        mean = estimate(configuration, "log_likelihood")
        return math.inf if mean is None else -mean.mean

    return sorted(comparison.configurations.values(), key=key)


def short(name: str) -> str:
    """Return a name without the folders of the user's own classes.

    >>> short("../parts/mine.py:Guide(scale=2), latent_dim 5")
    'mine.py:Guide(scale=2), latent_dim 5'
    """
    return _OWN_CLASS.sub(r"\1", name)


def errors_of(mean: MeanOverSeeds) -> dict[str, str]:
    """Return the errors of a mean by name: the known ones, and always the Monte Carlo error."""
    errors = {"MC": mean.monte_carlo, "data": mean.data, "seeds": mean.spread}
    return {name: rounded_error(error) for name, error in errors.items() if name == "MC" or not math.isnan(error)}


def in_words(errors: Mapping[str, str]) -> str:
    """Return errors as they are written behind a number.

    >>> in_words({"MC": "0.01", "data": "0.24"})
    'MC 0.01, data 0.24'
    """
    return ", ".join(f"{name} {size}" for name, size in errors.items())


def _column(
    comparison: Comparison, key: str, ranking: Ranking | str | None, configurations: Sequence[Configuration]
) -> dict[str, Entry]:
    """Return the entries of a column by configuration; quantities that were not measured have none."""
    if key == CELLS:
        settings = [name for name in comparison.varying if name != "seed"]
        cells = Counter(result.cell.label(settings) for result in comparison.results)
        done = {c.name: len(c.results) for c in configurations if cells[c.name]}
        return {
            name: Entry(number, str(number) if number == cells[name] else f"{number} of {cells[name]}")
            for name, number in done.items()
        }
    unit = comparison.quantities[key].unit if key in comparison.quantities else ""
    if not unit:
        values = {c.name: numbers(c, key) for c in configurations}
        return {name: _of_numbers(of_cells) for name, of_cells in values.items() if of_cells}
    estimates = {c.name: estimate(c, key) for c in configurations}
    means = {name: mean.times(100) if unit == "share" else mean for name, mean in estimates.items() if mean is not None}
    # All means of a column have as many decimals.
    digits = 1 if unit == "share" else max((mean.decimals for mean in means.values()), default=0)
    best = ranking.best if isinstance(ranking, Ranking) else ()
    entries = {
        name: Entry(mean.mean, f"{mean.mean:.{digits}f}", errors_of(mean), name in best) for name, mean in means.items()
    }
    not_finite = {
        c.name: Entry(text="not finite") for c in configurations if c.name not in means and is_measured(c, key)
    }
    return not_finite | entries


def _of_numbers(values: Sequence[float]) -> Entry:
    """Return the entry of numbers whose only error is their spread over seeds."""
    mean = sum(values) / len(values)
    text = f"{mean:,.0f}" if mean >= 100 or all(value.is_integer() for value in (*values, mean)) else f"{mean:.3g}"
    if len(set(values)) == 1:
        return Entry(mean, text)
    spread = statistics.stdev(values)
    return Entry(mean, text, {"seeds": f"{spread:.2g}" if spread < 100 else f"{spread:,.0f}"})


def _code(text: str) -> str:
    """Return text as code in a cell of a Markdown table."""
    text = " ".join(text.split()).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _plain(text: str) -> str:
    """Return text of which Markdown takes nothing as emphasis, code or HTML."""
    return re.sub(r"([\\`*<])", r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_title(title: str) -> str:
    """Return the head of a column with a line for each word, or in one line if it has a formula."""
    if "log p(x)" in title:
        return _latex(title).replace("log p(x)", r"$\log p(x)$")
    return rf"\shortstack[r]{{{_latex(title).replace(' ', chr(92) * 2)}}}"


def _latex_number(entry: Entry) -> str:
    number = _latex(entry.text) if math.isnan(entry.value) else entry.text.replace("-", "$-$").replace(",", r"\,")
    return rf"\textbf{{{number}}}" if entry.best else number
