"""A run comes back from its folder, from the data that it was fitted to and no others."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from held_parts import model_for
from pyro import poutine
from small_folders import settings, write_comparison, write_images, write_run
from torch import nn

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison import Cell, Comparison, compare, load_cell
from pyro_vae.comparison.results import read_cell, write_fitted
from pyro_vae.comparison.run_cell import fit_cell, load_data_of, make_pair_of
from pyro_vae.data.image_data import first_of
from pyro_vae.errors import RunError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.parts import part_names
from pyro_vae.programs.modules import as_args


@pytest.fixture
def data(tmp_path) -> Path:
    return write_images(tmp_path / "images.npy")


def weights(model, guide, x) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return pyro_vae.log_weights(model, guide, x, 3)


def draws(guide, x) -> torch.Tensor:
    torch.manual_seed(1)
    trace = poutine.trace(guide).get_trace(*as_args(x))
    return torch.cat([site["value"].flatten() for site in trace.nodes.values() if site["type"] == "sample"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("guide", "prior", "likelihood", "network") for name in part_names(kind)],
)
def test_a_run_of_the_command_line_comes_back_whatever_its_parts(kind, name, data, tmp_path):
    options = {"vamp": "(num_components=5)", "categorical": "(levels=2)", "discretized_logistic": "(levels=2)"}
    options |= {
        "conv": "(channels=(4, 6))",
        "gated_conv": "(channels=(4,), strides=(2,))",
        "resnet": "(channels=(16,))",
    }
    text, run = name + options.get(name, ""), tmp_path / "run"
    model = model_for(name) if kind == "guide" else "vae"
    chosen = {"model": model, kind: text, "epochs": 1, "valid_size": 0}
    if "num_classes" in model:
        # What y is the data say.
        chosen |= {"model": model.partition("(")[0], "quadrants": 1}
    fit_cell(Cell.of(settings(data) | chosen), run, progress=False)
    loaded = pyro_vae.load_run(run)
    model, guide, images = load_cell(run)
    for ours, theirs in ((loaded.model, model), (loaded.guide, guide)):
        for (a, mine), (b, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert a == b
            assert torch.equal(mine, other)
    if name == "vamp":
        assert loaded.model.prior.guide is loaded.guide
    # A local guide knows its training data only.
    x = images.observe(first_of(images.train, 3))
    assert torch.equal(draws(loaded.guide, x), draws(guide, x))
    assert torch.equal(weights(loaded.model, loaded.guide, x), weights(model, guide, x))


@pytest.mark.parametrize("replacement", [nn.ReLU, nn.Sigmoid, lambda: nn.LeakyReLU(0.3)])
def test_a_part_that_was_replaced_is_not_built_as_it_was(replacement, tmp_path):
    """The shapes are the same, so that only the function would differ."""
    model, guide = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,))
    model.likelihood.decoder.layers[1] = replacement()
    x = torch.rand(20, 4).round()
    pyro_vae.fit(model, guide, x, epochs=1, batch_size=10, compile="off", out=tmp_path)
    with pytest.raises(RunError, match=r"layers\.1 was .*LU|was 'Sigmoid"):
        pyro_vae.load_run(tmp_path)
    assert pyro_vae.load_run(tmp_path, model=model).model is model


def test_a_number_in_a_description_that_the_settings_gainsay_is_refused(data, tmp_path):
    """No shape and no class tells the two priors apart."""
    run = write_run(tmp_path / "run", data, prior="student_t(df=5)")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["args"]["prior"]["args"]["df"] == 5
    config["model"]["args"]["prior"]["args"]["df"] = 50
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match="describes another model"):
        load_cell(run)


def change(data: Path) -> None:
    write_images(data, seed=1)


def test_every_reader_refuses_data_that_have_changed(data, tmp_path, capsys):
    run = write_run(tmp_path / "run", data, prior="vamp(num_components=5)")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    moved = shutil.copy(data, tmp_path / "moved.npy")
    change(data)
    # The folder alone gives the pair back, its pseudo-inputs included.
    assert pyro_vae.load_run(run).model.prior.pseudo_inputs.shape == (5, 1, 4, 4)
    for read in (load_cell, lambda path: pyro_vae.load_run(path, data=data)):
        with pytest.raises(RunError, match=r"content_hash: .* data=\.\.\."):
            read(run)
    (run / "evaluation.json").unlink()
    for words in (["evaluate"], ["evaluate", "--num_samples", "9"], ["figures"]):
        assert main([words[0], str(run), *words[1:], "--quiet"]) == 2
        assert "was fitted to other data than are in" in capsys.readouterr().err
    (run / "fitted.json").unlink()
    assert main(["fit", "--resume", "--out", str(run), "--quiet"]) == 2
    assert "was fitted to other data than are in" in capsys.readouterr().err
    assert all(file.read_bytes() == before[file] for file in run.rglob("*") if file.is_file() and file.suffix)
    # Where they are now can be named.
    pyro_vae.load_run(run, data=moved)
    pyro_vae.load_run(run, data=pyro_vae.load_data(moved, binarization="threshold"))
    load_cell(run, data=moved)
    assert main(["fit", "--resume", "--out", str(run), "--data", str(moved), "--quiet"]) == 0
    assert read_cell(run).data == str(data)
    for words in (["evaluate", "--num_samples", "9"], ["figures"]):
        assert main([words[0], str(run), *words[1:], "--data", str(moved), "--quiet"]) == 0


def test_every_reader_says_how_data_that_have_moved_are_named(data, tmp_path, capsys):
    run, half = write_run(tmp_path / "run", data, prior="vamp(num_components=5)"), tmp_path / "half"
    shutil.copytree(run, half)
    for file in ("evaluation.json", "fitted.json"):
        (half / file).unlink()
    data.rename(tmp_path / "moved.npy")
    pyro_vae.load_run(run)
    for read in (load_cell,):
        with pytest.raises(RunError, match=r"images\.npy.* with data="):
            read(run)
    for words in (["evaluate", run, "--num_samples", 9], ["figures", run], ["fit", "--resume", "--out", half]):
        assert main([*map(str, words), "--quiet"]) == 2
        assert "lie elsewhere now, name them with --data" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["evaluate"], ["fit", "--resume", "--out"]])
def test_a_finished_run_is_not_shown_as_one_of_other_data(words, data, tmp_path, capsys):
    run = write_run(tmp_path / "run", data)
    other = write_images(tmp_path / "other.npy", seed=1)
    assert main([*words, str(run), "--data", str(other), "--quiet"]) == 2
    assert "was fitted to other data than are in" in capsys.readouterr().err
    assert main([*words, str(run), "--data", str(shutil.copy(data, tmp_path / "moved.npy")), "--quiet"]) == 0


@pytest.mark.parametrize(
    "words", [["fit", "--data", ""], ["evaluate", "run", "--data", ""], ["figures", "run", "--data="]]
)
def test_an_empty_name_is_no_data(words, data, tmp_path, capsys, monkeypatch):
    """As a variable of the shell leaves it that is not set: it is neither the working folder nor the run's own data."""
    write_run(tmp_path / "run", data)
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--quiet"]) == 2
    assert "the name of the data is empty" in capsys.readouterr().err


def swap(decoder):
    decoder.layers[1] = nn.ReLU()


def patch(decoder):
    decoder.layers[1].forward = torch.sin


@pytest.mark.parametrize("change", [swap, patch])
def test_a_cell_whose_part_was_changed_is_noticed_by_every_reader(change, data, tmp_path, capsys):
    """A folder of the command line's form, of a pair that was changed by hand in Python."""
    cell, run = Cell.of(settings(data)), tmp_path / "run"
    images = load_data_of(cell)
    model, guide = make_pair_of(cell, images)
    change(model.likelihood.decoder)
    options = {"epochs": cell.epochs, "batch_size": cell.batch_size, "compile": "off", "recipe": cell.settings()}
    fitted = pyro_vae.fit(model, guide, images, out=run, **options)
    write_fitted(run, cell, len(fitted.history))
    for read in (pyro_vae.load_run, load_cell):
        with pytest.raises(RunError, match="VAE cannot be built"):
            read(run)
    for words in (["evaluate", run, "--num_samples", 9], ["figures", run]):
        assert main([*map(str, words), "--quiet"]) == 2
        assert "VAE cannot be built from its description" in capsys.readouterr().err
    assert pyro_vae.load_run(run, model=model).model is model


def test_a_model_that_was_taken_over_comes_back_from_the_run_alone(data, tmp_path):
    """Of a frozen comparison: without the folder that the model was fitted in."""
    out = write_comparison(tmp_path / "cmp", data)
    results = Comparison.read(out).results
    taken = [result for result in results if result.cell.fitted_model is not None]
    assert taken
    pairs = {result.path: load_cell(result.path) for result in taken}
    decoders = {out / "cells" / result.cell.fitted_model.hash for result in taken}
    for path in decoders:
        shutil.rmtree(path)
    for path, (model, guide, images) in pairs.items():
        loaded = pyro_vae.load_run(path)
        assert torch.equal(weights(loaded.model, loaded.guide, images.test), weights(model, guide, images.test))


def test_tensors_are_compared_as_well(tmp_path):
    model, guide, x = VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), torch.rand(20, 4).round()
    pyro_vae.fit(model, guide, x, epochs=1, batch_size=10, compile="off", out=tmp_path)
    pyro_vae.load_run(tmp_path, data=x.clone())
    with pytest.raises(RunError, match="in tensor now; content_hash"):
        pyro_vae.load_run(tmp_path, data=1 - x)


def test_a_comparison_does_not_go_on_with_data_that_have_changed(data, tmp_path):
    out = write_comparison(tmp_path / "cmp", data)
    grid = {"design": "frozen", "common": settings(data), "grid": {"guide": ["mean_field", "full_rank", "low_rank"]}}
    moved = shutil.copy(data, tmp_path / "moved.npy")
    change(data)
    with pytest.raises(RunError, match="fitted to other data"):
        compare(grid, out, threads=1)
    assert main(["report", str(out), "--quiet"]) == 0
    assert (
        "nothing can be drawn" in (out / "report.html").read_text() or "was fitted" in (out / "report.html").read_text()
    )
    assert main(["report", str(out), "--data", str(moved), "--quiet"]) == 0
    assert "was fitted to other data" not in (out / "report.html").read_text()
    shutil.copy(moved, data)
    assert not compare(grid, out, threads=1).failed


def test_a_comparison_is_not_lost_where_its_data_are(data, tmp_path, monkeypatch):
    """Cells keep their hashes, and a finished one needs no data; new ones are refused before anything is written."""
    monkeypatch.chdir(tmp_path)
    grid = {"common": settings(Path("images.npy")), "grid": {"guide": ["mean_field", "full_rank"]}}
    compare(grid, "cmp", threads=1)
    out = tmp_path / "cmp"
    data.unlink()
    assert len(compare(grid, out, threads=1).finished) == 2
    before = snapshot(out)
    for jobs in (1, 2):
        with pytest.raises(ValueError, match=r"no data at .*, which 1 of 3"):
            compare(grid | {"cells": [{"seed": 1}]}, out, threads=1, jobs=jobs)
    assert snapshot(out) == before


def test_runs_and_comparisons_do_not_share_a_folder(data, tmp_path, capsys):
    run, out = write_run(tmp_path / "run", data), write_comparison(tmp_path / "cmp", data)
    before = snapshot(run) | snapshot(out)
    with pytest.raises(RunError, match="run is the folder of a run"):
        compare({"common": settings(data), "grid": {"seed": [0]}}, run)
    assert main(["fit", "--data", str(data), "--out", str(out), "--quiet"]) == 2
    assert "cmp is the folder of a comparison: choose another --out for the run." in capsys.readouterr().err
    assert snapshot(run) | snapshot(out) == before


def snapshot(folder: Path) -> dict:
    """Every file and folder, with when it was last changed: a file that is made and removed changes its folder."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_what_is_finished_is_read_without_writing(data, tmp_path):
    run, out = write_run(tmp_path / "run", data), write_comparison(tmp_path / "cmp", data)
    (run / "evaluation.json").rename(tmp_path / "kept.json")
    for folder in (run, out):
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(run) | snapshot(out)
    elsewhere = tmp_path / "elsewhere"
    for words in (
        ["evaluate", run, "--out", elsewhere / "own.json"],
        ["evaluate", run, "--num_samples", 9, "--out", elsewhere / "nine.json"],
        ["figures", run, "--out", elsewhere / "figures"],
        ["report", out, "--out", elsewhere / "report", "--latex"],
    ):
        assert main([*map(str, words), "--quiet"]) == 0
    pyro_vae.load_run(run)
    load_cell(run)
    assert str(Comparison.read(out))
    assert snapshot(run) | snapshot(out) == before
    own = json.loads((elsewhere / "own.json").read_text())
    for name, value in json.loads((tmp_path / "kept.json").read_text())["measured"]["elbo_terms"].items():
        assert own["measured"]["elbo_terms"][name] == value
    assert (elsewhere / "report" / "report.html").is_file()
    assert (elsewhere / "report" / "report.tex").is_file()
    assert list((elsewhere / "figures").iterdir())
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({key: yaml.safe_load((out / "grid.yaml").read_text())[key] for key in ["cells"]}))
    assert len(compare(grid, out, threads=1).finished) == 2


OWN = "from pyro_vae import guides, models\n\n\nclass {name}({base}):\n    pass\n"


@pytest.fixture
def own_files(tmp_path):
    """A guide and a prior of one's own, each in a file."""
    guide, prior = tmp_path / "changed_guide.py", tmp_path / "unchanged_prior.py"
    guide.write_text(OWN.format(name="MyGuide", base="guides.MeanFieldGuide"))
    prior.write_text(OWN.format(name="MyPrior", base="models.priors.StandardNormalPrior"))
    yield guide, prior
    for file in (guide, prior):
        sys.modules.pop(file.stem, None)


@pytest.mark.parametrize("words", [["evaluate"], ["evaluate", "--num_samples", "9"], ["figures"]])
def test_a_run_whose_own_file_has_changed_is_kept_and_the_file_named(words, own_files, data, tmp_path, capsys):
    guide, prior = own_files
    run = write_run(tmp_path / "run", data, guide=f"{guide}:MyGuide", prior=f"{prior}:MyPrior")
    old = guide.read_text()
    guide.write_text(old + "\n")
    sys.modules.pop(guide.stem)
    command = [words[0], str(run), "--trust", "--quiet", *words[1:]]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"the file of --guide {guide}:MyGuide has changed since. Put the old code back" in error
    assert f"`pyro-vae fit --config {run} --out NEW_FOLDER --trust`" in error
    assert str(prior) not in error
    assert "remove" not in error
    prior.write_text(prior.read_text() + "\n")
    sys.modules.pop(prior.stem)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"the files of --guide {guide}:MyGuide and --prior {prior}:MyPrior have changed since" in error


def test_a_run_whose_own_file_is_put_back_is_read_again(own_files, data, tmp_path):
    guide, _ = own_files
    run, old = write_run(tmp_path / "run", data, guide=f"{guide}:MyGuide"), guide.read_text()
    for text, code in ((old + "\n", 2), (old, 0)):
        guide.write_text(text)
        sys.modules.pop(guide.stem)
        assert main(["figures", str(run), "--trust", "--quiet"]) == code


def test_a_changed_file_of_a_model_that_is_taken_over_is_named(own_files, data, tmp_path, capsys):
    """Its guide is no part of the run that takes the model over, and is one of the model's fit."""
    guide, _ = own_files
    grid = {
        "design": "frozen", "common": settings(data), "grid": {"guide": ["full_rank"]},
        "fitted_model": {"guide": f"{guide}:MyGuide"},
    }  # fmt: skip
    run = compare(grid, tmp_path / "grid", threads=1).results[0].path
    guide.write_text(guide.read_text() + "\n")
    sys.modules.pop(guide.stem)
    assert main(["figures", str(run), "--trust", "--quiet"]) == 2
    assert f"{guide}:MyGuide of the model that is taken over has changed since" in capsys.readouterr().err
