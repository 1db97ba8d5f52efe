"""Which estimate of log p(x) wins: the highest that nothing speaks against, datum by datum; the others are named."""

import math
from types import SimpleNamespace

import torch
from torch.testing import assert_close

from pyro_vae.evaluation.best_evidence import EvidenceCandidate, best_evidence, over_the_limit


def candidate(name, values, error=0.1, doubtful=None):
    values = torch.tensor(values, dtype=torch.float64)
    doubtful = torch.zeros(len(values)) if doubtful is None else torch.tensor(doubtful)
    return EvidenceCandidate(name, values, torch.full_like(values, error), doubtful.bool())


def choose(*candidates):
    comparable = torch.stack([one.values.isfinite() for one in candidates]).all(0)
    return best_evidence(candidates, comparable, "image")


def test_the_highest_wins():
    found = choose(candidate("low", [-3.0, -3.0]), candidate("high", [-2.0, -2.5]), candidate("middle", [-2.5, -2.4]))
    assert found.values.tolist() == [-2.0, -2.5]  # no datum takes another for being higher
    assert found.source == "high"
    assert not found.doubtful.any()


def test_of_equal_ones_the_better_known():
    found = choose(candidate("noisy", [-2.0, -2.0], error=1.0), candidate("known", [-2.1, -2.1], error=0.01))
    assert found.source == "known"


def test_a_spoiled_candidate_does_not_win():
    found = choose(candidate("spoiled", [31.7, 30.8], doubtful=[1, 1]), candidate("fair", [-4.5, -4.6]))
    assert found.values.tolist() == [-4.5, -4.6]
    assert found.source == "fair"
    assert not found.doubtful.any()
    assert found.disagreement == "spoiled is 36 nats above (s.e. 0.1; 2 of 2)"


def test_a_loose_bound_that_is_known_to_be_loose_is_no_disagreement():
    found = choose(candidate("loose", [-40.0, -40.0], doubtful=[1, 1]), candidate("fair", [-4.5, -4.6]))
    assert found.disagreement == ""


def test_where_one_is_spoiled_another_stands_in():
    found = choose(candidate("q*", [9.0, -2.0, -2.0], doubtful=[1, 0, 0]), candidate("q", [-3.0, -2.2, -2.2]))
    assert found.values.tolist() == [-3.0, -2.0, -2.0]
    assert found.source == "q* (q for 1 image)"
    # Ranked where both are dependable: 9.0 helps nobody.
    found = choose(candidate("q*", [9.0, -2.0, -2.0], doubtful=[1, 0, 0]), candidate("q", [-3.0, -1.9, -1.9]))
    assert found.source == "q"


def test_where_all_are_doubtful_the_highest_wins_and_it_is_said():
    found = choose(candidate("q", [-3.0, -3.0], doubtful=[1, 1]), candidate("q*", [-2.0, -2.0], doubtful=[1, 1]))
    assert found.source == "q*"
    assert found.doubtful.all()


def test_one_without_a_dependable_number_comes_last():
    found = choose(candidate("q", [0.0, 0.0], doubtful=[1, 1]), candidate("q*", [-2.0, -2.0], doubtful=[1, 0]))
    assert found.source == "q*"
    assert found.doubtful.tolist() == [True, False]


def test_disagreement_beyond_errors_is_said():
    """The mean of four differences has an error of hypot(0.1, 0.1) / 2 = 0.071, and three of them are 0.21."""
    found = choose(candidate("low", [-4.0] * 4), candidate("high", [-3.0] * 4))
    assert found.disagreement == "low is 1 nats below (s.e. 0.071; 4 of 4)"
    assert choose(candidate("near", [-3.2] * 4), candidate("high", [-3.0] * 4)).disagreement == ""


def test_what_the_callers_evidence_says_of_itself_is_heeded():
    two, errors = torch.tensor([-2.0, -3.0]), torch.zeros(2)
    plain = SimpleNamespace(per_datum=two, standard_errors=errors)
    assert not EvidenceCandidate.given(plain).doubtful.any()
    flagged = SimpleNamespace(per_datum=two, standard_errors=errors, flagged=torch.tensor([True, False]))
    assert EvidenceCandidate.given(flagged).doubtful.tolist() == [True, False]
    khat = torch.tensor([0.65, math.nan])
    tailed = SimpleNamespace(per_datum=two, standard_errors=errors, pareto_k=khat, num_samples=100)
    assert EvidenceCandidate.given(tailed).doubtful.tolist() == [True, True]
    tailed = SimpleNamespace(per_datum=two, standard_errors=errors, pareto_k=khat)
    assert EvidenceCandidate.given(tailed).doubtful.tolist() == [False, True]
    assert_close(EvidenceCandidate.given(plain).values, two.double())


def test_too_few_samples_for_a_khat_are_no_doubt():
    assert not over_the_limit(torch.tensor([math.nan]), 25).any()
    assert over_the_limit(torch.tensor([math.nan, 0.9, -math.inf]), 26).tolist() == [True, True, False]
