"""What a cell leaves behind is read back, and what is no cell's folder is said."""

import math

import pytest
import torch
from made_up import made_up_result

import pyro_vae
from pyro_vae.comparison import Cell, load_cell
from pyro_vae.comparison.results import (
    epochs_done,
    is_finished,
    read_cell,
    read_result,
    write_error,
    write_result,
)
from pyro_vae.errors import RunError
from pyro_vae.evaluation import Estimate
from pyro_vae.fit.run import write_history
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

CELL = Cell(epochs=2)


def written(path):
    path.mkdir()
    made_up = made_up_result(CELL, path.parent, epochs=2)
    write_history(path, made_up.history)
    values = torch.tensor([1.0, math.nan], dtype=torch.float64)
    terms = {name: {**made_up.summary_of(name), "mean": 1.0, "standard_error": 3.25} for name in ("elbo", "rate")}
    measured = {**made_up.measured, "elbo_terms": {**made_up.measured["elbo_terms"], **terms}}
    per_datum = {"elbo_terms.elbo": values, "elbo_terms.rate": values.flip(0)}
    write_result(path, CELL, {**made_up.evaluation, "measured": measured}, per_datum)
    return values


def test_a_result_goes_to_its_folder_and_back(tmp_path):
    path = tmp_path / "cell"
    assert not is_finished(path, CELL)
    values = written(path)
    assert is_finished(path, CELL)
    found = read_result(path, CELL)
    assert found.finished
    assert found.summary_of("elbo")["standard_error"] == 3.25
    torch.testing.assert_close(found.values_of("elbo"), values, rtol=0, atol=0, equal_nan=True)
    assert [row["epoch"] for row in found.history] == [1, 2]
    assert epochs_done(path) == 2


def test_an_error_is_kept_until_the_cell_finishes(tmp_path):
    path = tmp_path / "cell"
    write_error(path, "ValueError: no\n\nTraceback ...")
    assert read_result(path, CELL).error == "ValueError: no\n\nTraceback ..."
    path.rename(tmp_path / "other")
    written(path)
    write_error(path, "old")
    assert read_result(path, CELL).finished


def test_a_cell_that_was_not_run_says_so(tmp_path):
    assert read_result(tmp_path, CELL).error == "it was not run to its end"
    assert epochs_done(tmp_path) == 0


def test_values_that_are_damaged_are_said(tmp_path):
    path = tmp_path / "cell"
    written(path)
    (path / "per_datum.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match=r"per_datum\.safetensors cannot"):
        read_result(path, CELL)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("elbo_terms", "elbo"), ("elbo_terms", "reconstruction"), ("elbo_terms", "rate"),
        ("log_likelihood", "log_likelihood"), ("log_likelihood", "khat_above"),
        ("inference_gaps", "approximation_gap"), ("inference_gaps", "amortization_gap"),
        ("inference_gaps", "inference_gap"), ("inference_gaps", "elbo"),
    ],
)  # fmt: skip
def test_means_that_are_not_those_of_the_images_are_refused(group, name, tmp_path):
    """As where one of the two files was copied from another run: the table would contradict its rankings."""
    made_up = made_up_result(CELL, tmp_path, epochs=2)
    gap = made_up.values_of("inference_gap").clone()
    gap[0] = math.nan  # flagged, and in no mean
    values = {**made_up.per_datum, "inference_gaps.inference_gap": gap}
    summary = {**made_up.summary_of("inference_gap"), "mean": gap[1:].mean().item()}
    gaps = {**made_up.measured["inference_gaps"], "inference_gap": summary}
    evaluation = {**made_up.evaluation, "measured": {**made_up.measured, "inference_gaps": gaps}}
    write_history(tmp_path, made_up.history)
    write_result(tmp_path, CELL, evaluation, values)
    assert read_result(tmp_path, CELL).finished
    place = f"{group}.{name}"
    for wrong in (values[place] + 0.01, values[place] * math.nan):
        write_result(tmp_path, CELL, evaluation, values | {place: wrong})
        with pytest.raises(RunError, match=rf"{group}: the mean of `{name}` is"):
            read_result(tmp_path, CELL)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("log_likelihood", "num_unresolved"), ("log_likelihood", "num_without_mass"), ("log_likelihood", "bound"),
        ("log_likelihood", "khat_threshold"), ("inference_gaps", "num_doubtful"), ("inference_gaps", "bound"),
        ("inference_gaps", "num_not_converged"), ("inference_gaps", "num_unresolved"),
    ],
)  # fmt: skip
def test_a_fact_that_readers_count_with_is_not_null(group, name, tmp_path):
    made_up = made_up_result(CELL, tmp_path, epochs=2)
    write_history(tmp_path, made_up.history)
    measured = {**made_up.measured, group: {**made_up.measured[group], name: None}}
    write_result(tmp_path, CELL, {**made_up.evaluation, "measured": measured}, made_up.per_datum)
    with pytest.raises(RunError, match=rf"measured: {group}: `{name}` must"):
        read_result(tmp_path, CELL)


@pytest.mark.parametrize("odd", [5, None, {"standard_error": 0.1}, "text"])
@pytest.mark.parametrize(("group", "name"), [("ais", "log_likelihood"), ("evidence_budget", "iwae_10")])
def test_what_is_no_estimate_of_values_that_are_there_is_refused(group, name, odd, tmp_path):
    made_up = made_up_result(CELL, tmp_path, epochs=2)
    values, errors = made_up.values_of("log_likelihood"), torch.full((20,), 0.1, dtype=torch.float64)
    per_datum = {**made_up.per_datum, f"{group}.{name}": values, f"{group}.{name}.standard_errors": errors}
    write_history(tmp_path, made_up.history)
    for summary, refused in ((Estimate(values, errors).summary(), False), (odd, True)):
        evaluation = {**made_up.evaluation, "measured": {**made_up.measured, group: {name: summary}}}
        write_result(tmp_path, CELL, evaluation, per_datum)
        if refused:
            with pytest.raises(RunError, match=rf"{group}: `{name}` must be"):
                read_result(tmp_path, CELL)
        else:
            assert read_result(tmp_path, CELL).finished


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (None, "`failed_evaluations` must be"),
        (["broken"], "`failed_evaluations` must be"),
        ({"broken": 1}, "failed_evaluations: `broken`"),
    ],
)
def test_reasons_of_evaluations_that_failed_are_texts_by_name(failed, words, tmp_path):
    """Older files have none, and are read."""
    made_up = made_up_result(CELL, tmp_path, epochs=2)
    write_history(tmp_path, made_up.history)
    write_result(tmp_path, CELL, made_up.evaluation, made_up.per_datum)
    assert read_result(tmp_path, CELL).failed_evaluations == {}
    for reasons, refused in (({"broken": "RuntimeError: no luck"}, False), (failed, True)):
        write_result(tmp_path, CELL, {**made_up.evaluation, "failed_evaluations": reasons}, made_up.per_datum)
        if refused:
            with pytest.raises(RunError, match=words):
                read_result(tmp_path, CELL)
        else:
            assert read_result(tmp_path, CELL).failed_evaluations == reasons


def test_a_run_made_from_objects_is_no_cell(tmp_path):
    x = torch.ones(20, 4)
    pyro_vae.fit(VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), x, epochs=1, batch_size=10, out=tmp_path / "run")
    with pytest.raises(RunError, match="has no `recipe`"):
        read_cell(tmp_path / "run")
    with pytest.raises(RunError, match=r"no run folder at"):
        load_cell(tmp_path / "nowhere")


def test_a_recipe_is_kept_and_guards_resumption(tmp_path):
    x = torch.ones(20, 4)

    def fit(recipe, **options):
        pair = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
        return pyro_vae.fit(
            *pair, x, epochs=1, batch_size=10, compile="off", out=tmp_path / "run", recipe=recipe, **options
        )

    cell = Cell(lr=0.5, batch_size=10, compile="off")
    fit(cell.settings())
    assert read_cell(tmp_path / "run") == cell
    fit(cell.settings(), resume=True)
    with pytest.raises(RunError, match=r"recipe\.lr: was 0\.5, is 0\.25"):
        fit(Cell(lr=0.25, batch_size=10, compile="off").settings(), resume=True)
