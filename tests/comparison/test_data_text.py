"""The text of a cell's data: a path or a name, with the options of the data set."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae
from pyro_vae.comparison import Cell, load_cell
from pyro_vae.comparison.data_text import parse_data
from pyro_vae.comparison.run_cell import load_data_of
from pyro_vae.errors import RunError

NUMBERS = np.random.default_rng(0).normal(5.0, 20.0, (60, 4))


@pytest.fixture
def table(tmp_path):
    """A table of sixty rows, with missing cells, texts and a number of each row."""
    frame = pd.DataFrame(NUMBERS, columns=list("abcd")).assign(kind=["x", "y", "z"] * 20, age=np.arange(60) / 4)
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("t.csv", "t.csv", {}),
        ("mnist-5k", "mnist-5k", {}),
        ("t.csv(values='real')", "t.csv", {"values": "real"}),
        ("a (b)/t(1).csv(drop=['x'])", "a (b)/t(1).csv", {"drop": ("x",)}),
        ("a folder (2)", "a folder (2)", {}),
        ("a folder (2)(resize=(4, 4))", "a folder (2)", {"resize": (4, 4)}),
        ("t.csv()", "t.csv", {}),
    ],
)
def test_brackets_of_options_are_told_from_those_of_a_path(text, name, options):
    assert parse_data(text) == (name, options)


def test_a_path_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x(a=1)").mkdir()
    assert parse_data("x(a=1)") == ("x(a=1)", {})


def test_options_have_one_spelling_and_change_the_hash(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = Cell(data="t.csv")
    assert plain.data == str(table)
    cell = Cell(data="t.csv( standardize = true, drop=['kind'] )")
    assert cell.data == f"{table}(drop=('kind',), standardize=True)"
    assert cell.hash == Cell(data=f"{table}(drop=('kind',),standardize=True)").hash != plain.hash
    assert Cell.of(cell.settings()) == cell
    named = Cell(data="t.csv(labels='kind')")
    assert (named.data, named.labels) == (str(table), "kind")
    assert named.hash == Cell(data="t.csv", labels="kind").hash


def test_cells_without_options_have_the_hash_that_they_had():
    """Written down before data had options: folders of runs are found by it."""
    assert Cell().hash == "89c72303007d8aed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "t.csv(standardise=True)"}, "Did you mean 'standardize'"),
        ({"data": "t.csv(standardize=1)"}, "standardize must be one of"),
        ({"data": "mnist-5k(values='real')"}, r"'values'\. It has none"),
        ({"data": "t.csv(labels=kind)"}, "A text needs quotes"),
        ({"data": "mnist-6k(values='real')"}, "Did you mean 'mnist-5k'"),
        ({"data": "t.csv(labels='kind')", "labels": "age"}, "must be the same as that in data"),
        ({"data": "t.csv", "labels": 3}, "labels must be true or false"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(settings, message):
    with pytest.raises(ValueError, match=message):
        Cell(**settings)


def test_a_cell_loads_what_its_text_says(table):
    cell = Cell(data=f"{table}(tensors=['age'], standardize=True)", labels="kind", valid_size=3)
    data, direct = load_data_of(cell), pyro_vae.load_data(
        table, tensors=("age",), standardize=True, labels="kind", valid_size=3
    )  # fmt: skip
    assert data.describe() == direct.describe()
    assert data.datum == ("x", "labels", "age")


def test_a_run_of_a_table_is_loaded_again(table, tmp_path):
    """`compare` on a CSV file; then its folders give the same data and pair, and refuse a table that has changed."""
    common = {
        "data": f"{table}(label_column='kind', drop=['age'], standardize=True)", "likelihood": "gaussian",
        "latent_dim": 2, "hidden_dims": [6], "epochs": 1, "batch_size": 12, "num_test": 5, "num_samples": 10,
        "elbo_samples": 3, "compile": "off",
    }  # fmt: skip
    comparison = pyro_vae.compare({"common": common, "grid": {"seed": [0, 1]}}, tmp_path / "out", threads=1)
    assert [result.error for result in comparison.results] == [None, None]
    path = comparison.results[0].path
    model, guide, data = load_cell(path)
    x = torch.from_numpy(NUMBERS)
    train = data.train_images.double() * data.scale + data.shift
    assert all((row - x).abs().amax(1).min() < 1e-4 for row in train)
    run = pyro_vae.load_run(path, data=table)
    torch.manual_seed(0)
    expected = pyro_vae.log_weights(model, guide, data.test, num_samples=3)
    torch.manual_seed(0)
    assert torch.equal(pyro_vae.log_weights(run.model, run.guide, data.test, num_samples=3), expected)
    moved = tmp_path / "moved.csv"
    table.rename(moved)
    assert load_cell(path, data=moved)[2].content_hash == data.content_hash
    moved.write_text(moved.read_text().replace("z", "y", 1))
    assert load_cell(path, data=moved)[2].content_hash == data.content_hash  # labels are no part of these data
    first = str(NUMBERS[0, 0])
    moved.write_text(moved.read_text().replace(first, f"{first}1"[:6] + "9"))
    with pytest.raises(RunError, match="was fitted to other data"):
        load_cell(path, data=moved)
