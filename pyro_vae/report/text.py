"""The sentences and small tables of a report: what was compared, what is best, and how to repeat it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro_vae.comparison.comparison import GRID as GRID_FILE
from pyro_vae.comparison.comparison import Comparison
from pyro_vae.comparison.estimates import estimate
from pyro_vae.comparison.grid import SETTINGS
from pyro_vae.comparison.results import ELBO
from pyro_vae.comparison.task import CELLS
from pyro_vae.evaluation.estimate import decimals
from pyro_vae.fit.run import CONFIG
from pyro_vae.report.table import Rankings, errors_of, in_words
from pyro_vae.runtime.wording import count
from pyro_vae.statistics.ranking import Ranking

AGAIN = "again"
"""The folder that the commands of the report write to."""

LEAST_P = 1e-4
"""Smaller p-values are written as "< 0.0001"."""


def subject(comparison: Comparison) -> str:
    """Return the names of the settings by which cells differ, as a list in words; "" for a single cell."""
    names = [name.replace("_", " ") for name in comparison.varying if name != "seed"] or list(comparison.varying)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def headline(comparison: Comparison) -> str:
    """Return a sentence with the numbers of finished cells, configurations, seeds and test images."""
    done = comparison.finished
    seeds = sorted({result.cell.seed for result in comparison.results})
    seeds_in_words = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"
    configurations = count(len(comparison.configurations), "configuration")
    text = f"{len(done)} of {count(len(comparison.results), 'cell')} finished: {configurations}, {seeds_in_words}"
    images = sorted({(len(r.per_datum[ELBO]), r.evaluation["data"]["name"]) for r in done})
    measured = " and ".join(f"{count(number, 'test image')} of {Path(data).name}" for number, data in images)
    return f"{text}; measured on {measured}." if images else f"{text}."


def best_of(comparison: Comparison, rankings: Rankings) -> list[dict[str, Any]]:
    """Return, for each of the two bounds with a ranking, the best configuration, its mean, and those tied with it."""
    best = []
    for quantity in ("log_likelihood", "elbo"):
        ranking = rankings.get(quantity)
        if isinstance(ranking, Ranking):
            first, *tied = ranking.best
            mean = estimate(comparison.configurations[first], quantity)
            assert mean is not None
            text, errors = f"{mean.mean:.{mean.decimals}f}", in_words(errors_of(mean))
            title = _title(comparison, quantity)
            best.append({"title": title, "name": first, "text": text, "errors": errors, "tied": tied})
    return best


def shown_ranking(comparison: Comparison, quantity: str, ranking: Ranking | str) -> dict[str, Any]:
    """Return the texts of a ranking, or the reason why there is none.

    Each row has the places of its interval's ends, of its difference to the best, and of 0, in a drawing of width 100.
    """
    shown: dict[str, Any] = {"quantity": quantity, "title": _title(comparison, quantity), "problem": None}
    if isinstance(ranking, str):
        return shown | {"problem": ranking}
    digits = max(decimals(pair.difference.standard_error) for pair in ranking.comparisons)
    ends = [0.0, *(end for row in ranking.rows for end in row.interval)]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    rows: list[dict[str, Any]] = []
    for row in ranking.rows:
        (start, end), (low_here, high_here), p = row.interval, row.image_interval, row.p_value
        differs = {
            "to_best": f"{row.to_best:+.{digits}f}",
            "interval": f"{start:.{digits}f} to {end:.{digits}f}",
            "of_these_runs": f"{low_here:.{digits}f} to {high_here:.{digits}f}",
            "p": f"< {LEAST_P:g}" if p < LEAST_P else f"{p:.2g}",
        }
        rows.append({
            "rank": row.rank, "name": row.name, "mean": f"{row.mean:.{digits}f}",
            **(differs if rows else dict.fromkeys(differs, "")),
            "places": [round(100 * (nats - low) / width, 1) for nats in (start, end, row.to_best, 0.0)],
        })  # fmt: skip
    over = f"new seeds and images ({ranking.seeds_in_words}" if ranking.num_seeds > 1 else "new images (one seed"
    left_out = f", {ranking.num_left_out} left out as not finite" if ranking.num_left_out else ""
    images, pairs = count(ranking.num_images, "image"), count(len(ranking.comparisons), "pair")
    note = f"over {over}, {images}{left_out}), corrected for {pairs} (Bonferroni, Holm)"
    return shown | {"rows": rows, "level": f"{100 * ranking.level:g} %", "note": note}


def settings_of(comparison: Comparison) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the settings by which cells differ, with their values, and those that all cells share.

    Shared settings without a value are left out; the runs from which models are taken are added.
    """
    common = _values(comparison, [name for name in SETTINGS if name not in comparison.varying])
    fitted_models = dict.fromkeys(result.cell.fitted_model for result in comparison.results)
    sources = [cell.label(["guide", "objective", "epochs", "seed"]) for cell in fitted_models if cell is not None]
    return _values(comparison, comparison.varying), common | ({"model taken over from": sources} if sources else {})


def distinct(descriptions: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, str], int]]:
    """Return the distinct descriptions, each with how often it occurs."""
    counts = Counter(tuple(_flat(description).items()) for description in descriptions)
    return [(dict(items), number) for items, number in counts.items()]


def commands(comparison: Comparison) -> tuple[str, dict[str, str]]:
    """Return the command that repeats the comparison from its folder, and those that repeat each cell, by its hash."""
    fits = {}
    for result in comparison.results:
        name = result.cell.hash
        fits[name] = f"pyro-vae fit --config {CELLS}/{name}/{CONFIG} --out {AGAIN}/{name}"
    return f"pyro-vae compare {GRID_FILE} --out {AGAIN}", fits


def _title(comparison: Comparison, quantity: str) -> str:
    return comparison.quantities[quantity].title().removesuffix(" ≥")


def _values(comparison: Comparison, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the distinct values of settings in words, by name, without settings that have no value in any cell."""
    in_words = {}
    for name in names:
        values = list(dict.fromkeys(getattr(result.cell, name) for result in comparison.results))
        if values != [None]:
            in_words[name] = [_value_in_words(value) for value in values]
    return in_words


def _value_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " × ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)


def _flat(description: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in description.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}, {inner}": _value_in_words(number) for inner, number in value.items()}
        else:
            flat[name] = _value_in_words(value)
    return flat
