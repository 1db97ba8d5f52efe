"""A conditional pair by name: what y is comes from the data, for each command, in grids, and for a user's own class."""

import contextlib
import io
import json

import numpy as np
import pytest
import yaml
from small_folders import settings

import pyro_vae
from pyro_vae.cli import main

OWN = '''
from pyro_vae.guides import ConditionalGuide
from pyro_vae.models import ConditionalVAE


class Model(ConditionalVAE):
    """Names what it needs to know of y."""

    def __init__(self, x_shape, latent_dim, hidden_dims, num_classes, y_shape):
        super().__init__(x_shape, latent_dim, hidden_dims, num_classes=num_classes, y_shape=y_shape)


class Guide(ConditionalGuide):
    """Knows the shape of y without its classes."""

    def __init__(self, x_shape, latent_dim, hidden_dims, num_classes):
        super().__init__(x_shape, latent_dim, hidden_dims, num_classes=num_classes)
'''

PAIR = ["--model", "conditional_vae", "--guide", "conditional"]

SIZES = [
    "--data", "stripes.npz", "--binarization", "threshold", "--latent_dim", "2", "--hidden_dims", "6", "--epochs", "2",
    "--batch_size", "10", "--num_test", "6", "--num_samples", "20", "--elbo_samples", "3", "--compile", "off",
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
    path = tmp_path_factory.mktemp("conditional")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 60), ("valid", 10), ("test", 10)):
        labels = np.arange(number) % 4
        images = rng.integers(0, 100, (number, 4, 4), dtype=np.uint8)
        images[np.arange(number), labels] += 150
        arrays |= {split: images, f"{split}_labels": labels}
    np.savez(path / "stripes.npz", **arrays)
    (path / "own_conditional.py").write_text(OWN)
    with contextlib.chdir(path):
        yield path


def test_a_pair_of_labels_by_name(folder):
    run("fit", "--model", "conditional_vae", "--guide", "conditional", "--labels", *SIZES, "--out", "labels")
    loaded = pyro_vae.load_run(folder / "labels")
    assert (loaded.model.num_classes, loaded.guide.num_classes) == (4, 4)
    printed = run("figures", "labels", "--y", 2)
    assert [line.rpartition("/")[2] for line in printed.splitlines()] == [
        "learning_curves.png", "reconstructions.png", "prior_samples.png", "traversal.png"
    ]  # fmt: skip
    assert "no test image has the label 7; there are 0, 1, 2, 3." in run("figures", "labels", "--y", 7, code=2)


def test_quadrants_are_given_and_completed(folder):
    pair = ["--model", "conditional_vae", "--model.conditional_prior", "--guide", "conditional", "--quadrants", 1]
    run("fit", *pair, "--guide.base", "low_rank", *SIZES, "--out", "quadrants")
    config = yaml.safe_load((folder / "quadrants" / "config.yaml").read_text())
    assert config["data"]["tensors"] == {"missing": [60, 12], "given": [60, 1, 4, 4]}
    assert config["data"]["quadrants"] == config["recipe"]["quadrants"] == 1
    loaded = pyro_vae.load_run(folder / "quadrants", data="stripes.npz")
    assert (loaded.model.x_shape, loaded.model.y_shape, loaded.guide.base) == ((12,), (1, 4, 4), "low_rank")
    assert "completions.png" in run("figures", "quadrants")
    assert "there are none" in run("figures", "quadrants", "--y", 0, code=2)
    run("evaluate", "quadrants", "--num_samples", 30, "--sbc", "num_data=10, num_draws=5", "--out", "more.json")
    assert "sbc" in json.loads((folder / "more.json").read_text())["measured"]


def test_a_class_of_the_users_own_is_told_what_y_is(folder):
    file = "own_conditional.py"
    run("fit", "--model", f"{file}:Model", "--guide", f"{file}:Guide", "--labels", *SIZES, "--out", "own")
    loaded = pyro_vae.load_run(folder / "own", trust=True)
    assert (loaded.model.num_classes, loaded.model.y_shape, loaded.guide.num_classes) == (4, (), 4)


def test_a_grid_has_its_report(folder):
    """Cells of other quadrants are said to be of other pixels."""
    common = settings(folder / "stripes.npz") | {"model": "conditional_vae", "hidden_dims": [6]}
    guides = ["conditional", "conditional(base='low_rank')"]
    grid = {"common": common, "cells": [{"quadrants": number, "guide": guide} for number in (2, 3) for guide in guides]}
    comparison = pyro_vae.compare(grid, folder / "grid", threads=1)
    assert [result.error for result in comparison.results] == [None] * 4
    printed = run("report", "grid")
    page = (folder / "grid" / "report.html").read_text()
    assert "of other pixels" in page, printed
    assert "cannot be drawn" not in page
    assert "nothing can be drawn" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (PAIR, "needs num_classes where y is a class label"),
        (PAIR, "--labels gives images with labels."),
        (
            ["--model", "conditional_vae", "--guide", "conditional", "--labels", "--prior", "vamp(num_components=3)"],
            "as vamp, has none",
        ),
        (["--quadrants", "4"], "--quadrants must be 1, 2 or 3; got 4."),
        (["--model", "conditional_vae(num_classes=3)", "--guide", "conditional", "--labels"], "is the pair's"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, words, message):
    printed = run("fit", *words, *SIZES, "--out", "none", code=2)
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
