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
from pyro_vae.fit.run import write_history
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

CELL = Cell(epochs=2)


def written(path):
    path.mkdir()
    made_up = made_up_result(CELL, path.parent, epochs=2)
    write_history(path, made_up.history)
    values = torch.tensor([1.0, math.nan], dtype=torch.float64)
    elbo = {**made_up.evaluation["elbo"], "elbo_nats": math.nan, "rate_nats": math.nan, "standard_error": 3.25}
    write_result(path, CELL, {**made_up.evaluation, "elbo": elbo}, {"elbo": values, "rate": values.flip(0)})
    return values


def test_a_result_goes_to_its_folder_and_back(tmp_path):
    path = tmp_path / "cell"
    assert not is_finished(path, CELL)
    values = written(path)
    assert is_finished(path, CELL)
    found = read_result(path, CELL)
    assert found.finished
    assert found.evaluation["elbo"]["standard_error"] == 3.25
    torch.testing.assert_close(found.per_datum["elbo"], values, rtol=0, atol=0, equal_nan=True)
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
    with pytest.raises(RunError, match=r"per_datum\.safetensors cannot be read: .* it is computed again\."):
        read_result(path, CELL)


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("elbo", "elbo"), ("elbo", "reconstruction"), ("elbo", "rate"), ("log_likelihood", "log_likelihood"),
        ("gaps", "approximation_gap"), ("gaps", "amortization_gap"), ("gaps", "inference_gap"),
    ],
)  # fmt: skip
def test_means_that_are_not_those_of_the_images_are_refused(group, name, tmp_path):
    """As where one of the two files was copied from another run: the table would contradict its rankings."""
    made_up = made_up_result(CELL, tmp_path, epochs=2)
    values = {**made_up.per_datum, "inference_gap": made_up.per_datum["inference_gap"].clone()}
    values["inference_gap"][0] = math.nan  # flagged, and in no mean
    gaps = {**made_up.evaluation["gaps"], "inference_gap_nats": values["inference_gap"][1:].mean().item()}
    evaluation = {**made_up.evaluation, "gaps": gaps}
    write_history(tmp_path, made_up.history)
    write_result(tmp_path, CELL, evaluation, values)
    assert read_result(tmp_path, CELL).finished
    for wrong in (values[name] + 0.01, values[name] * math.nan):
        write_result(tmp_path, CELL, evaluation, values | {name: wrong})
        with pytest.raises(
            RunError, match=rf"evaluation\.json: {group}: `{name}_nats` is \S+, and the mean of `{name}` in"
        ):
            read_result(tmp_path, CELL)


def test_a_run_made_from_objects_is_no_cell(tmp_path):
    x = torch.ones(20, 4)
    pyro_vae.fit(VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), x, epochs=1, batch_size=10, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"has no `recipe`: the run was made by pyro_vae\.fit from objects\."):
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
    with pytest.raises(RunError, match=r"cannot be resumed with other settings; recipe\.lr: was 0\.5, is 0\.25\.$"):
        fit(Cell(lr=0.25, batch_size=10, compile="off").settings(), resume=True)
