"""Tables and arrays of real values on the command line: options of data are flags, and figures say what they lack."""

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import yaml

from pyro_vae.cli import main
from pyro_vae.comparison import load_cell

SETTINGS = [
    "--latent_dim", "2", "--hidden_dims", "6", "--epochs", "1", "--batch_size", "12", "--num_test", "5",
    "--num_samples", "10", "--elbo_samples", "3", "--compile", "off", "--likelihood", "gaussian",
]  # fmt: skip


def run(*words: object, code: int = 0) -> str:
    """Run a command and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = main([str(word) for word in words])
    assert ended == code, err.getvalue()
    return out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    numbers = rng.normal(5.0, 20.0, (60, 4))
    pd.DataFrame(numbers, columns=list("abcd")).assign(kind=["x", "y", "z"] * 20).to_csv(path / "t.csv", index=False)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    np.savez(path / "x.npz", x=numbers, library=np.arange(60.0))
    np.save(path / "pictures.npy", rng.normal(size=(60, 1, 4, 4)))
    with contextlib.chdir(path):
        yield path


def config(*words: object) -> dict:
    return yaml.safe_load(run("fit", *words, "--print_config"))


def test_options_of_data_are_flags(folder):
    assert config("--data", "t.csv", "--labels", "kind", "--data.standardize")["data"].endswith(
        "t.csv(standardize=True)"
    )
    settings = config("--data", "x.npz", "--data.tensors", "library", "--data.missing", "mask", "--labels")
    assert settings["data"].endswith("x.npz(missing='mask', tensors=('library',))")
    assert settings["labels"] is True
    assert config("--data", "t.csv(label_column='kind')", "--data.drop", "a", "b")["data"].endswith(
        "t.csv(drop=('a', 'b'), label_column='kind')"
    )
    assert config("--data", "t.csv", "--labels", "kind")["labels"] == "kind"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "t.csv", "--data.standardise"], "no option 'standardise'"),
        (["--data", "t.csv", "--data.missing", "drop"], "--data.missing must be one of"),
        (["--data", "mnist-5k", "--data.values", "real"], "It has none"),
        (["--data", "t.csv"], "--data.label_column kind"),
        (["--data", "x.npz"], "--data.missing mask"),
        (["--data", "t.csv", "--labels"], "name their column, --labels"),
        (["--data", "t.csv", "--labels", "sort"], "no column 'sort'"),
    ],
)
def test_what_does_not_fit_is_one_line_with_its_flag(folder, words, message):
    if words == ["--data", "t.csv", "--labels"]:
        words = ["--data", "t.csv(drop=['kind'])", "--labels"]
    assert message in run("fit", *words, *SETTINGS, "--out", "none", code=2)


def test_the_help_lists_the_options_of_the_data(folder):
    printed = run("fit", "--data", "t.csv", "--data.help")
    assert "--data.label_column TEXT" in printed
    assert "--data.standardize" in printed
    assert "--data.resize" not in printed


def test_a_run_of_a_table_goes_through_each_command(folder):
    words = ["--data", "t.csv", "--data.label_column", "kind", "--data.standardize"]
    run("fit", *words, *SETTINGS, "--out", "run")
    assert "holds this run already" in run("fit", *words, *SETTINGS, "--out", "run", code=2)
    run("fit", "--resume", "--out", "run")
    assert "no images in grey or colour" in run("figures", "run")
    run("evaluate", "run", "--linear_probe", "--out", "probe.json")
    assert "linear_probe" in json.loads((folder / "probe.json").read_text())["measured"]
    (folder / "t.csv").rename(folder / "elsewhere.csv")
    assert "--data" in run("evaluate", "run", "--num_samples", 11, code=2)
    assert "log p(x) >=" in run("evaluate", "run", "--num_samples", 11, "--data", "elsewhere.csv")
    (folder / "elsewhere.csv").rename(folder / "t.csv")
    assert load_cell("run")[2].classes == {"labels": ("x", "y", "z")}


def test_real_values_in_the_shape_of_an_image_are_not_drawn_as_one(folder):
    run("fit", "--data", "pictures.npy", "--data.values", "real", *SETTINGS, "--out", "pictures")
    printed = run("figures", "pictures")
    assert "real values" in printed
    assert "reconstructions" not in printed


def test_a_likelihood_of_pixels_is_refused_before_the_fit(folder):
    words = [word if word != "gaussian" else "bernoulli" for word in SETTINGS]
    printed = run("fit", "--data", "pictures.npy", "--data.values", "real", *words, "--out", "none", code=2)
    assert "Bernoulli has support" in printed
    assert "--likelihood gaussian" in printed
    assert not (folder / "none").exists()


def test_the_report_of_a_table_says_that_there_are_no_pictures(folder):
    common = {"data": "t.csv(label_column='kind', standardize=True)"} | {
        "latent_dim": 2, "hidden_dims": [6], "epochs": 1, "batch_size": 12, "num_test": 5, "num_samples": 10,
        "elbo_samples": 3, "compile": "off", "likelihood": "gaussian",
    }  # fmt: skip
    (folder / "grid.yaml").write_text(
        yaml.safe_dump({"common": common, "grid": {"guide": ["mean_field", "full_rank"]}})
    )
    run("compare", "grid.yaml", "--out", "comparison", "--threads", 1)
    run("report", "comparison")
    page = (folder / "comparison" / "report.html").read_text()
    assert page.count("no images in grey or colour") == 2
    assert "could not be drawn" not in page
