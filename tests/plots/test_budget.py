"""The figure of budgets: bars that end at -ELBO, whether or not the gap is split."""

import pytest
import torch

from pyro_vae.evaluation import Estimate, EvidenceBudget
from pyro_vae.plots.budget import best_evidence, evidence_budgets

EXACT = {"reconstruction": -70.0, "rate": 25.0, "elbo": -95.0, "iwae_1": -95.0, "iwae_5000": -91.0}


def budget(**more):
    values = EXACT | more
    terms = {name: Estimate(torch.full((3,), value), torch.full((3,), 0.1)) for name, value in values.items()}
    nowhere = torch.zeros(3, dtype=torch.bool)
    return EvidenceBudget(
        terms=terms, pareto_k=torch.zeros(3), num_samples=5000, without_mass=nowhere, lost=nowhere, datum="image"
    )


def ends(axes):
    """Where the bars of each row end."""
    found = {}
    for patch in axes.patches:
        found[round(patch.get_y(), 6)] = patch.get_x() + patch.get_width()
    return list(found.values())


def test_both_bars_end_at_minus_the_elbo():
    runs = {"plain": budget(), "split": budget(ais=-90.0, amortization_gap=3.0, approximation_gap=1.5)}
    figure = evidence_budgets(runs)
    whole, gaps = figure.axes
    assert ends(whole) == pytest.approx([95.0, 95.0])
    assert ends(gaps) == pytest.approx([95.0, 95.0])
    assert [label.get_text() for label in whole.get_yticklabels()] == ["plain", "split"]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["distortion", "rate", "-log p(x), at most", "gap", "approximation gap", "amortization gap"]


def test_the_best_bound_stands_for_the_evidence():
    assert best_evidence(budget()).mean == pytest.approx(-91.0)
    assert best_evidence(budget(ais=-90.0)).mean == pytest.approx(-90.0)
    assert best_evidence(budget(ais=-92.0)).mean == pytest.approx(-91.0)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no budget to draw"):
        evidence_budgets({})
