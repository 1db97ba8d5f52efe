"""The figure of evidence budgets: the terms of each run's ELBO, and its gap to log p(x)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence_budget import EvidenceBudget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def evidence_budgets(budgets: Mapping[str, EvidenceBudget]) -> "Figure":
    """Draw two stacked bars for each run, in nats: -ELBO as distortion plus rate, and as -log p(x) plus the gaps.

    The second panel starts near the smallest -log p(x), so that gaps of a few nats can be seen; its whiskers are
    two Monte Carlo standard errors of log p(x).

    Args:
        budgets: each under the name that is written beside its bars.

    Raises:
        ValueError: ``budgets`` is empty.
    """
    from matplotlib.figure import Figure

    if not budgets:
        raise ValueError("evidence_budgets: no budget to draw; give {name: evidence_budget(...)}.")
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(budgets)), layout="constrained")
    whole, gaps = figure.subplots(1, 2, sharey=True)
    labels: set[str] = set()

    def bar(
        axes: "Axes", row: int, left: float, width: float, label: str, color: str, error: float | None = None
    ) -> None:
        shown = f"_{label}" if label in labels else label
        labels.add(label)
        axes.barh(row, width, left=left, color=color, label=shown, xerr=error, ecolor="black", capsize=3)

    for row, budget in enumerate(budgets.values()):
        distortion, rate = -budget["reconstruction"].mean, budget["rate"].mean
        bar(whole, row, 0, distortion, "distortion", "tab:blue")
        bar(whole, row, distortion, rate, "rate", "tab:orange")
        evidence = best_evidence(budget)
        bar(gaps, row, 0, -evidence.mean, "-log p(x), at most", "tab:gray", 2 * evidence.standard_error)
        left = -evidence.mean
        for name, width, color in _gaps(budget, evidence):
            bar(gaps, row, left, width, name, color)
            left += width
    lowest = min(-best_evidence(budget).mean for budget in budgets.values())
    highest = max(-budget["elbo"].mean for budget in budgets.values())
    room = 0.15 * (highest - lowest) or 1.0
    gaps.set_xlim(lowest - 2 * room, highest + room)
    whole.set_yticks(range(len(budgets)), list(budgets))
    whole.invert_yaxis()
    unit = next(iter(budgets.values())).datum
    for axes, title in ((whole, "-ELBO = distortion + rate"), (gaps, "-ELBO = -log p(x) + gaps")):
        axes.set(xlabel=f"nats per {unit}", title=title)
    figure.legend(loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")
    return figure


def best_evidence(budget: EvidenceBudget) -> Estimate:
    """Return the largest lower bound on log p(x) that a budget holds, by its mean over the data."""
    bounds = [term for name, term in budget.terms.items() if name == "ais" or name.startswith("iwae_")]
    return max(bounds, key=lambda term: term.mean)


def _gaps(budget: EvidenceBudget, evidence: Estimate) -> list[tuple[str, float, str]]:
    whole = evidence.mean - budget["elbo"].mean
    if "amortization_gap" not in budget.terms:
        return [("gap", whole, "tab:brown")]
    amortization = budget["amortization_gap"].mean
    return [("approximation gap", whole - amortization, "tab:red"), ("amortization gap", amortization, "tab:pink")]
