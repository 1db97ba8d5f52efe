"""A grid is computed once, cell by cell, as far as it is not there; what fails is recorded and the rest goes on."""

import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import yaml
from tiny_grids import COMMON, events, numbers
from torch import nn

import pyro_vae
from pyro_vae.comparison import Comparison, Grid, compare, comparison
from pyro_vae.comparison.run_cell import load_cell, load_data_of, load_pair, run_cell
from pyro_vae.errors import RunError
from pyro_vae.report.table import to_latex, to_markdown
from pyro_vae.runtime.wording import rounded_error

GRID = {"common": {**COMMON, "epochs": 2}, "grid": {"guide": ["mean_field", "iaf(num_flows=1)"], "seed": [0, 1]}}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "out"
    with torch.random.fork_rng():
        return compare(GRID, out, threads=1)


def test_each_cell_is_there_with_its_numbers(done):
    assert [result.cell for result in done.results] == list(Grid.of(GRID).cells)
    assert not done.failed
    for result in done.results:
        assert result.path == done.path / "cells" / result.cell.hash
        assert len(result.history) == 2
        for name in ("elbo", "log_likelihood"):
            assert result.values_of(name).shape == (20,)
        assert result.summary_of("elbo")["mean"] == pytest.approx(result.values_of("elbo").mean().item())
        assert (result.values_of("log_likelihood") >= result.values_of("elbo") - 3).all()


def test_a_cell_has_the_numbers_that_the_library_gives(done):
    """The same by hand: fit, then measure, with nothing of this package."""
    result = done.results[2]
    cell = result.cell
    data = pyro_vae.load_data("mnist-5k", seed=0)
    torch.manual_seed(cell.seed)
    guide = pyro_vae.guides.InverseAutoregressiveGuide(data.x_shape, 2, (10,), num_flows=1)
    model = pyro_vae.models.VAE(data.x_shape, 2, (10,))
    model.likelihood.initialize_bias(data.train_mean())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pyro_vae.fit(
            model, guide, data, epochs=2, batch_size=200, seed=cell.seed, compile="off",
            optimizer=lambda p: torch.optim.Adam(p, lr=cell.lr, fused=True),
            scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=2, eta_min=0.02 * cell.lr),
        )  # fmt: skip
        evidence = pyro_vae.log_likelihood(model, guide, data.test[:20], 30, seed=cell.seed, compile="off")
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(evidence.per_datum, result.values_of("log_likelihood"), rtol=0, atol=0)


def test_what_is_finished_is_never_computed_again(done):
    before = {path: path.stat().st_mtime_ns for path in (done.path / "cells").rglob("*") if path.suffix != ".lock"}
    log = events(done.path)
    again = compare(GRID, done.path, threads=1)
    assert events(done.path) == log
    after = {path: path.stat().st_mtime_ns for path in (done.path / "cells").rglob("*") if path.suffix != ".lock"}
    assert after == before
    pd.testing.assert_frame_equal(again.table, done.table)


def test_the_log_says_what_happened(done):
    for cell in Grid.of(GRID).cells:
        own = [line["event"] for line in events(done.path) if line["cell"] == cell.hash]
        assert own == ["started", "finished"]


def test_the_table_is_kept_as_parquet_and_csv(done):
    parquet, csv = pd.read_parquet(done.path / "results.parquet"), pd.read_csv(done.path / "results.csv")
    for stored in (parquet, csv):
        assert list(stored.columns) == list(done.table.columns)
        np.testing.assert_allclose(stored["elbo"], done.table["elbo"], rtol=1e-12)
    assert list(parquet["guide"]) == ["mean_field"] * 2 + ["iaf(num_flows=1)"] * 2
    assert parquet["elbo_se"].gt(0).all()


def test_configurations_are_cells_but_for_their_seed(done):
    assert list(done.configurations) == ["mean_field", "iaf(num_flows=1)"]
    values = done.configurations["mean_field"].values("elbo")
    assert values.shape == (2, 20)
    np.testing.assert_array_equal(values[1], done.results[1].values_of("elbo"))


def test_differences_are_paired_by_seed_and_image(done):
    found = done.difference("iaf(num_flows=1)", "mean_field", "log_likelihood")
    a, b = (np.stack([r.values_of("log_likelihood") for r in rows]) for rows in (done.results[2:], done.results[:2]))
    assert found.mean_difference == pytest.approx((a - b).mean())
    assert (found.num_seeds, found.num_images) == (2, 20)
    with pytest.raises(ValueError, match="no configuration 'iav'"):
        done.difference("iav", "mean_field")


def test_the_pair_of_a_cell_is_read_back(done):
    cell = done.results[2].cell
    data = load_data_of(cell)
    model, guide = load_pair(done.results[2].path, cell, data)
    terms = pyro_vae.elbo_terms(model, guide, data.test[:20], 5, seed=cell.seed, compile="off")
    torch.testing.assert_close(terms.elbo.per_datum, done.results[2].values_of("elbo"))


def test_str_has_a_ranking_of_each_quantity(done):
    text = str(done)
    assert text.startswith(f"4 of 4 cells finished in {done.path}\n")
    assert "elbo, nats per image" in text
    assert "log_likelihood, nats per image" in text
    assert "gap" not in text


def test_guides_are_fitted_to_one_model_that_stays_as_it_was(tmp_path):
    grid = {
        "design": "frozen",
        "common": {**COMMON, "epochs": 2, "prior": "mixture(num_components=3)"},
        "grid": {"guide": ["mean_field", "full_rank"]},
        "fitted_model": {"epochs": 3},
    }
    done = compare(grid, tmp_path / "out", threads=1)
    assert not done.failed
    (fitted_model,) = Grid.of(grid).fitted_models
    data = load_data_of(fitted_model)
    folder = done.path / "cells" / fitted_model.hash
    fitted, _ = load_pair(folder, fitted_model, data)
    untouched = dict(fitted.named_parameters())
    guides = []
    for result in done.results:
        model, guide = load_pair(result.path, result.cell, data, folder)
        guides.append(guide)
        for name, value in model.named_parameters():
            assert torch.equal(value, untouched[name]), name
            assert not value.requires_grad
    assert type(guides[0]) is not type(guides[1])
    assert [line["event"] for line in events(done.path)] == ["started", "fitted"] + ["started", "finished"] * 2
    assert done.table["fitted_model"].tolist() == [fitted_model.hash] * 2


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "guides_that_fail", raising=False)
    file = tmp_path / "guides_that_fail.py"
    file.write_text(
        "from pyro_vae.guides import MeanFieldGuide\n\n\n"
        "class Fails(MeanFieldGuide):\n"
        "    def posterior(self, x):\n"
        "        raise RuntimeError('no such luck')\n"
    )
    grid = {"common": {**COMMON, "epochs": 1}, "grid": {"guide": [f"{file}:Fails", "mean_field"]}}
    done = compare(grid, tmp_path / "out", threads=1)
    failed, finished = done.results
    assert finished.finished
    said = "PairError: the guide cannot be run on data of shape (8, 1, 28, 28): RuntimeError: no such luck"
    said = f"{said} ({file}, line 6)"
    assert failed.error.splitlines()[0] == said
    assert "Traceback (most recent call last)" in failed.error
    assert done.table["status"].tolist() == ["failed", "finished"]
    assert done.table["error"].tolist()[0] == said
    assert math.isnan(done.table["elbo"][0])
    assert f":Fails: {said}" in str(done)
    # As it was, it is tried again; mended, it would be another cell.
    compare(grid, tmp_path / "out", threads=1)
    own = [line["event"] for line in events(done.path) if line["cell"] == failed.cell.hash]
    assert own == ["started", "failed"] * 2


OWN_GUIDES = """
import os
import pyro
import torch
from pyro import distributions as dist
from pyro_vae.guides import MeanFieldGuide


class FailsLate(MeanFieldGuide):
    # Fails after some steps, as a machine that is switched off does.
    calls = 0

    def posterior(self, x):
        type(self).calls += self.training
        if type(self).calls > 30 and not os.path.exists(os.environ["MENDED"]):
            raise RuntimeError("the lights went out")
        return super().posterior(x)


class InTheStore(torch.nn.Module):
    # Has all it learns in Pyro's parameter store.
    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, x):
        loc = pyro.param("loc_in_the_store", torch.zeros(self.latent_dim))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc.expand(len(x), -1), 1.0).to_event(1))
"""


@pytest.fixture
def own_guides(tmp_path, monkeypatch):
    file = tmp_path / "guides_for_a_grid.py"
    file.write_text(OWN_GUIDES)
    monkeypatch.setenv("MENDED", str(tmp_path / "mended"))
    yield str(file)
    sys.modules.pop("guides_for_a_grid", None)


def test_nothing_is_fitted_to_a_model_that_is_half_fitted(own_guides, tmp_path):
    """Its checkpoint is there, and good for going on with; but not for measuring posteriors."""
    grid = {
        "design": "frozen",
        "common": {**COMMON, "epochs": 1},
        "grid": {"guide": ["mean_field"]},
        "fitted_model": {"epochs": 3, "guide": f"{own_guides}:FailsLate"},
    }
    done = compare(grid, tmp_path / "out", threads=1)
    (fitted_model,) = Grid.of(grid).fitted_models
    assert (tmp_path / "out" / "cells" / fitted_model.hash / "checkpoint").is_dir()
    (failed,) = done.failed
    assert failed.error.startswith(
        "the model that it takes over could not be fitted: RuntimeError: the lights went out"
    )
    with pytest.raises(RunError, match="not fitted to its end"):
        run_cell(failed.cell, tmp_path / "cell", fitted_model=tmp_path / "out" / "cells" / fitted_model.hash)
    (tmp_path / "mended").touch()
    assert not compare(grid, tmp_path / "out", threads=1).failed


def test_cells_in_one_process_share_no_parameter_store(own_guides, tmp_path):
    grid = {"common": {**COMMON, "epochs": 1}, "grid": {"guide": [f"{own_guides}:InTheStore"], "seed": [0, 1]}}
    together = compare(grid, tmp_path / "together", threads=1)
    assert not together.failed
    alone = compare({**grid, "grid": {**grid["grid"], "seed": [1]}}, tmp_path / "alone", threads=1)
    assert together.table["elbo"][1] == alone.table["elbo"][0]
    assert len(pyro.get_param_store()) == 0
    load_cell(together.results[1].path, trust=True)
    assert pyro.param("loc_in_the_store").abs().sum() > 0


def test_a_model_that_is_taken_over_runs_in_evaluation_mode():
    """Its running statistics stay, and its dropout is off, while a guide is fitted to it."""
    model = pyro_vae.models.VAE((4,), 2, (9,))
    model.likelihood.decoder = nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 4))
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    guide = pyro_vae.guides.MeanFieldGuide((4,), 2, (5,))
    pyro_vae.fit(model, guide, torch.randint(0, 2, (40, 4)).float(), epochs=2, batch_size=10)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_grid_that_is_kept_is_one_to_run_and_no_other_is_written_over(done, tmp_path):
    kept = done.path / "grid.yaml"
    assert Grid.read(kept).cells == Grid.of(GRID).cells
    own = tmp_path / "grid.yaml"
    own.write_text(yaml.safe_dump(GRID))
    with pytest.raises(RunError, match=r"grid\.yaml was not written"):
        compare(own, tmp_path, threads=1)
    assert yaml.safe_load(own.read_text()) == GRID


def test_a_file_that_has_changed_since_hides_no_result(own_guides, tmp_path):
    grid = {"common": {**COMMON, "epochs": 1}, "grid": {"guide": [f"{own_guides}:InTheStore"]}}
    done = compare(grid, tmp_path / "out", threads=1)
    before = done.results[0].cell.hash
    Path(own_guides).write_text(OWN_GUIDES + "\n# another version\n")
    assert done.results[0].cell.hash == before  # what runs is what was loaded
    sys.modules.pop("guides_for_a_grid")
    again = Comparison.read(tmp_path / "out", trust=True)
    assert again.results[0].cell.hash != before
    assert again.results[0].finished


def test_parameters_of_a_guide_inside_a_prior_count_once(tmp_path):
    cells = [{"prior": "standard_normal"}, {"prior": "vamp(num_components=3)"}]
    table = compare({"common": {**COMMON, "epochs": 1}, "cells": cells}, tmp_path, threads=1).table
    assert table["model_parameters"][1] - table["model_parameters"][0] == 3 * 784
    assert table["guide_parameters"][1] == table["guide_parameters"][0]


def test_a_ranking_needs_two_configurations(tmp_path):
    done = compare({"common": {**COMMON, "epochs": 1}, "cells": [{"seed": 3}]}, tmp_path, threads=1)
    with pytest.raises(ValueError, match="ranking needs two"):
        done.ranking()
    (head, row) = [line.split() for line in str(done).splitlines() if line.split()[:1] in (["mean"], ["elbo"])]
    assert head[:2] == ["mean", "unit"]
    elbo = done.results[0].summary_of("elbo")
    assert row[:2] == ["elbo", f"{elbo['mean']:.2f}"]
    assert row[2:] == ["nats", rounded_error(elbo["standard_error"]), rounded_error(elbo["data_standard_error"]),
                       "unknown", "20"]  # fmt: skip


def test_a_quantity_is_ranked_once_whatever_shows_it(done, monkeypatch):
    ranked, again, expected = [], Comparison.read(done.path), str(done)
    original = comparison.compare_all
    monkeypatch.setattr(comparison, "compare_all", lambda *a, **k: ranked.append(k) or original(*a, **k))
    assert str(again) == expected
    to_markdown(again)
    to_latex(again)
    assert len(ranked) == len(again.ranked) == 2
    again.difference(*again.configurations)
    assert len(ranked) == 2


def test_results_of_different_images_are_not_paired(done, tmp_path):
    other = {"common": {**COMMON, "epochs": 1}, "grid": {"data_seed": [0, 1]}}
    mixed = compare(other, tmp_path, threads=1)
    with pytest.raises(
        ValueError,
        match=r"stochastic, seed 0.* seed 1",
    ):
        mixed.difference("data_seed 0", "data_seed 1")
    with pytest.raises(ValueError, match="cannot be paired"):
        mixed.ranking()


def test_a_folder_of_another_version_or_none_is_refused(done, tmp_path):
    with pytest.raises(RunError, match="holds no comparison"):
        Comparison.read(tmp_path)
    copy = compare({"common": {**COMMON, "epochs": 1}, "cells": [{}]}, tmp_path, threads=1)
    file = copy.results[0].path / "evaluation.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"format": 0}))
    with pytest.raises(RunError, match=r"format 0; .* reads 3"):
        Comparison.read(tmp_path)
    for other, said in (
        ({"settings": content["settings"] | {"lr": 0.5, "guide": "iaf"}},
         "guide: was 'iaf', is 'mean_field'; lr: was 0.5, is 0.003"),
        ({"settings": content["settings"] | {"fitted_model": {"lr": 1}}}, "fitted_model: was {'lr': 1}, is None"),
        ({}, "its `cell` is not their hash"),
    ):  # fmt: skip
        file.write_text(json.dumps(content | {"cell": "beef"} | other))
        with pytest.raises(RunError, match=re.escape(said)):
            Comparison.read(tmp_path)
    del content["settings"]
    file.write_text(json.dumps(content | {"cell": "beef"}))
    with pytest.raises(RunError, match="'beef' is their hash"):
        Comparison.read(tmp_path)
    file.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json cannot be read"):
        Comparison.read(tmp_path)
    (tmp_path / "grid.yaml").write_text("cells: 3\n")
    with pytest.raises(RunError, match=r"grid\.yaml cannot be read"):
        Comparison.read(tmp_path)


def test_gaps_are_measured_where_they_are_asked_for(tmp_path):
    grid = {"common": {**COMMON, "epochs": 1, "num_gaps": 4}, "grid": {"guide": ["mean_field", "full_rank"]}}
    done = compare(grid, tmp_path, threads=1)
    assert done.ranked == [
        "elbo", "log_likelihood", "approximation_gap", "amortization_gap", "inference_gap"
    ]  # fmt: skip
    values = done.configurations["full_rank"].values("inference_gap")
    assert values.shape == (1, 4)
    row = done.table.iloc[1]
    assert row["inference_gap"] == pytest.approx(values.mean())
    assert row["inference_gap"] == pytest.approx(row["approximation_gap"] + row["amortization_gap"])
    means = {name: one.values("inference_gap").mean() for name, one in done.configurations.items()}
    assert done.ranking("inference_gap").rows[0].name == min(means, key=means.__getitem__)


def test_a_quantity_that_was_not_measured_is_said(done):
    with pytest.raises(ValueError, match=r"inference_gap .*set num_gaps"):
        done.ranking("inference_gap")


def test_numbers_do_not_depend_on_where_cells_run(done, tmp_path):
    """Processes of this machine, with as many threads: the same bits."""
    spread = compare(GRID, tmp_path, jobs=2, threads=1)
    pd.testing.assert_frame_equal(numbers(spread.table), numbers(done.table), check_exact=True)
    assert os.getpid() not in {line["pid"] for line in events(spread.path)}
