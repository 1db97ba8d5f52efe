"""What results say of their k-hats: the share above the threshold, of those that are known."""

import math

import pytest
import torch

from pyro_vae.evaluation.evidence.importance_result import ImportanceResult


def result(khat, **options):
    none = torch.zeros(len(khat), dtype=torch.bool)
    fields = {"num_samples": 5000, "without_mass": none, "lost": none, "datum": "image"}
    return ImportanceResult(pareto_k=torch.tensor(khat), **fields | options)


def test_unknown_khats_are_never_good():
    found = result([math.nan, 0.9, -math.inf, math.nan])
    assert found.summary()["khat_above"]["mean"] == 0.5
    assert found.summary()["khat_above"]["num_left_out"] == 2
    assert found.khat_in_words("0.70") == "k-hat > 0.70 for 50.0 % of 2 images, unknown for 2 of 4"
    assert found.facts()["num_unresolved"] == 2
    assert len(found.cautions) == 1


def test_no_khat_at_all_is_said():
    found = result([math.nan], without_mass=torch.tensor([True]))
    assert math.isnan(found.khat_above.mean)
    assert found.khat_in_words("0.70") == "k-hat unknown for 1 image"
    assert found.cautions == ["1 of 1 image have no weight above 0: log p^ is -inf"]


@pytest.mark.parametrize(("num_samples", "unresolved"), [(25, 0), (26, 1)])
def test_fewer_than_26_samples_have_no_khat_and_that_is_no_fault(num_samples, unresolved):
    found = result([math.nan], num_samples=num_samples)
    assert found.facts()["num_unresolved"] == unresolved
    assert ("needs K >= 26" in found.khat_in_words("0.30")) == (unresolved == 0)


def test_what_is_lost_in_roundings_is_unresolved_whatever_its_khat():
    assert result([0.1, 0.1], lost=torch.tensor([True, False])).unresolved.tolist() == [True, False]
