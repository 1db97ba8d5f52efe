"""What is said of a comparison, and when."""

from dataclasses import replace

import pytest
from made_up import TWO_BY_TWO, made_up_comparison
from scipy import stats

from pyro_vae.comparison import Comparison, Grid, compare
from pyro_vae.comparison.cautions import cautions, seed_outlook


def said(comparison: Comparison, words: str) -> bool:
    return any(words in caution for caution in cautions(comparison))


def changed(comparison: Comparison, at: int, **evaluation) -> Comparison:
    """The same with other numbers in one cell; the facts of an evaluation are merged."""
    result = comparison.results[at]
    measured, others = dict(result.measured), dict(result.evaluation)
    for name, value in evaluation.items():
        if name in measured:
            measured[name] = {**measured[name], **value}
        elif name == "measured":
            measured = value
        else:
            others[name] = {**others.get(name, {}), **value} if isinstance(value, dict) else value
    results = list(comparison.results)
    results[at] = replace(result, evaluation={**others, "measured": measured})
    return replace(comparison, results=results)


ONE_SEED = {"grid": {"guide": ["mean_field", "full_rank"]}}
SIX_SEEDS = {"grid": {"guide": ["mean_field", "full_rank"], "seed": list(range(6))}}


def test_one_seed_knows_nothing_of_others(tmp_path):
    assert said(made_up_comparison(tmp_path, ONE_SEED), "Each configuration has one finished seed")
    assert said(made_up_comparison(tmp_path, TWO_BY_TWO, failed=[1]), "1 of 2 configurations has one finished seed")


def test_numbers_without_the_seeds_that_some_have_not_finished_say_so(tmp_path):
    """Seeds that failed are often those at which a configuration is worst, and the others lose them as well."""
    whole, lost = made_up_comparison(tmp_path, SIX_SEEDS), made_up_comparison(tmp_path, SIX_SEEDS, failed=[1, 9])
    assert "left out" not in str(whole)
    assert str(lost).endswith("\nleft out of rankings, as not every configuration has finished with it: seed 1, 3")
    assert said(lost, "2 cells of 12 did not finish and are in no number below. 2 of them failed: the seeds that ")
    mean = sum(r.summary_of("elbo")["mean"] for r in lost.results[6:] if r.cell.seed in (0, 2, 4, 5)) / 4
    assert f"{mean:.2f}" in str(lost)
    none = made_up_comparison(tmp_path, TWO_BY_TWO, failed=[0, 1])
    assert "left out" not in str(none)


def test_few_seeds_tell_little_apart(tmp_path):
    assert said(made_up_comparison(tmp_path, TWO_BY_TWO), "With 2 seeds of 2 configurations, two are told apart from")
    assert not said(made_up_comparison(tmp_path, SIX_SEEDS), "told apart")


def seeds_of(*seeds):
    return {"grid": {"guide": ["mean_field", "full_rank", "iaf", "planar"], "seed": list(seeds)}}


def test_a_grid_says_before_it_runs_what_it_can_conclude():
    """With two seeds of four: t of 3 degrees of freedom at 95 % of 6 pairs, times the standard error of seeds."""
    assert "will hold for these fitted networks only" in str(seed_outlook(Grid.of(seeds_of(4))))
    least, better = (stats.t.isf(0.05 / 12, 3 * (S - 1)) * (2 / S) ** 0.5 for S in (2, 3))
    said = str(seed_outlook(Grid.of(seeds_of(0, 1))))
    assert f"from a difference of about {least:.2g} standard deviations over seeds" in said
    assert f"{better:.2g} with 3 seeds" in said
    assert seed_outlook(Grid.of(seeds_of(0, 1, 2))) is None
    assert seed_outlook(Grid.of({"grid": {"seed": [0]}})) is None
    apart = {"cells": [{"guide": guide, "seed": seed} for seed, guide in enumerate(["mean_field", "iaf"])]}
    assert "no seed in common" in str(seed_outlook(Grid.of(apart)))
    partly = {"cells": [*apart["cells"], {"guide": "iaf", "seed": 0}]}
    assert "shares one seed with the others" in str(seed_outlook(Grid.of(partly)))


def test_compare_says_so_at_its_start(tmp_path, caplog):
    """Before the cells, of which each has an error of its own here; nothing is said when they are asked for again."""
    damaged = tmp_path / "damaged.npy"
    damaged.write_bytes(b"no array")
    grid = {"grid": {"guide": ["mean_field", "full_rank"], "seed": [0]}, "common": {"data": str(damaged)}}
    compare(grid, tmp_path / "out", progress=False)
    assert caplog.records[0].getMessage() == seed_outlook(Grid.of(grid))


def test_cells_that_did_not_finish_are_counted(tmp_path):
    assert said(made_up_comparison(tmp_path, TWO_BY_TWO, failed=[1]), "1 cell of 4 did not finish")
    assert cautions(made_up_comparison(tmp_path, TWO_BY_TWO, failed=range(4))) == [
        "4 cells of 4 did not finish and are in no number below."
    ]


def test_evaluations_that_measured_nothing_are_named_with_the_reason(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO, failed=[3])
    assert not said(comparison, "measured nothing")
    reasons = ["RuntimeError: no luck (my_eval.py, line 14)", "ValueError: too dark.", "TypeError: no"]
    one = changed(comparison, 0, failed_evaluations={"broken": reasons[0]})
    # Of the three cells that finished, two have tried it: one more has its numbers.
    one = changed(one, 1, measured={**one.results[1].measured, "broken": {"num_broken": 1}})
    assert f"broken measured nothing in 1 of 2 cells: {reasons[0]}." in cautions(one)
    several = comparison
    for at, reason in enumerate(reasons):
        several = changed(several, at, failed_evaluations={"broken": reason, "dark": reasons[1]})
    found = cautions(several)
    assert f"broken measured nothing in 3 of 3 cells: {reasons[0]}. In 2 of them the reason differs." in found
    assert f"dark measured nothing in 3 of 3 cells: {reasons[1]}" in found


def test_heavy_tails_and_no_tails(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert not said(comparison, "k-hat")
    assert said(made_up_comparison(tmp_path, TWO_BY_TWO, khat=0.9), "In 2 of 2 configurations, k-hat is above")
    few = {**TWO_BY_TWO, "common": {"num_samples": 20}}
    assert said(made_up_comparison(tmp_path, few), "k-hat needs 26 samples")


def test_gaps_of_fewer_images(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert said(comparison, "Gaps are those of the first 6 test images, where a cell has 20")
    assert not said(made_up_comparison(tmp_path, TWO_BY_TWO, num_gaps=20), "Gaps are those")
    gap = comparison.results[0].summary_of("inference_gap")
    lost = changed(comparison, 0, inference_gaps={"inference_gap": {**gap, "num_left_out": 2}})
    assert said(lost, "2 of 24 images, over all cells, are not finite")
    assert said(
        changed(comparison, 0, inference_gaps={"family": "flow"}), "best members of different families (diagonal, flow)"
    )
    assert not said(comparison, "families")
    assert said(
        changed(comparison, 0, inference_gaps={"num_not_converged": 1}), "1 of 24 images, over all cells, have a q*"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_likelihood": {"bound": False}}, "Targets are soft"),
        ({"test_images": "others"}, "different test images"),
        ({"environment": {"threads": 8}}, "different environments"),
        ({"data": {"content_hash": "decaf"}}, "Data called mnist-5k had 2 different contents"),
    ],
)
def test_what_differs_between_cells(tmp_path, change, words):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert not said(comparison, words)
    assert said(changed(comparison, 0, **change), words)


def test_objectives_that_differ(tmp_path):
    assert said(made_up_comparison(tmp_path, {"grid": {"objective": ["trace_elbo", "iwae"]}}), "Objectives differ")


def test_whether_models_are_the_cells_own(tmp_path):
    assert said(made_up_comparison(tmp_path, TWO_BY_TWO), "a model of its own")
    frozen = {**TWO_BY_TWO, "design": "frozen"}
    assert Grid.of(frozen).fitted_models
    assert said(made_up_comparison(tmp_path, frozen), "seconds to fit are those of the guide alone")


def test_images_without_a_khat_are_counted(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert not said(comparison, "no share of k-hats")
    lost = changed(comparison, 0, log_likelihood={"num_unresolved": 3, "num_without_mass": 2})
    images = sum(len(result.values_of("elbo")) for result in comparison.results)
    assert said(
        lost, f"3 of {images} images, over all cells, have no k-hat and are in no share of k-hats: float32 cannot"
    )
    assert said(lost, f"2 of {images} images, over all cells, have no weight above 0")


def test_gaps_without_a_dependable_evidence_are_counted(tmp_path):
    comparison = made_up_comparison(tmp_path, TWO_BY_TWO)
    assert not said(comparison, "dependable log p(x)")
    lost = changed(comparison, 0, inference_gaps={"num_doubtful": 2, "disagreement": "IWAE-9 with q is 3 nats above"})
    assert said(lost, "images, over all cells, have no dependable log p(x)")
    assert said(lost, "In 1 of 4 cells, estimates of log p(x) that gaps could be measured from differ")
