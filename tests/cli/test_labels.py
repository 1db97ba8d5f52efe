"""Images with labels: a conditional VAE in a file goes through each command, and no label is lost on the way."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib import image
from small_folders import settings, write_images

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison.cautions import cautions
from pyro_vae.fit.run import CHECKPOINT
from pyro_vae.runtime.checkpoint import read_checkpoint

PROGRAM = Path(__file__).with_name("conditional.py")
PAIR = ["--model", "conditional.py:Conditional", "--guide", "conditional.py:Encoder", "--labels"]
SETTINGS = [
    "--data", "stripes.npz", "--binarization", "threshold", "--latent_dim", "2", "--hidden_dims", "6",
    "--epochs", "3", "--batch_size", "10", "--num_test", "6", "--num_samples", "20", "--elbo_samples", "3",
]  # fmt: skip


def run(*words: object, code: int = 0) -> str:
    """Run a command and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = main([str(word) for word in words])
    assert ended == code, err.getvalue()
    return out.getvalue() + err.getvalue()


def write_stripes(file: Path, shift: int = 0) -> None:
    """Images of which one row of pixels is bright: the label says which."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 60), ("valid", 10), ("test", 10)):
        labels = np.arange(number) % 3
        images = rng.integers(0, 100, (number, 4, 4), dtype=np.uint8)
        images[np.arange(number), labels] += 150
        arrays |= {split: images, f"{split}_labels": (labels + shift) % 3}
    np.savez(file, **arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels")
    shutil.copy(PROGRAM, path)
    write_stripes(path / "stripes.npz")
    write_stripes(path / "others.npz", shift=1)
    write_images(path / "unlabelled.npy")
    with contextlib.chdir(path):
        yield path


@pytest.fixture(scope="module")
def fitted(folder):
    run("fit", *PAIR, *SETTINGS, "--num_gaps", "2", "--compile", "trace", "--out", "run")
    return folder / "run"


def test_a_run_folder_names_all_tensors(fitted):
    config = yaml.safe_load((fitted / "config.yaml").read_text())
    assert config["data"]["tensors"] == {"images": [60, 1, 4, 4], "labels": [60]}
    assert config["recipe"]["labels"] is True
    evaluation = json.loads((fitted / "evaluation.json").read_text())
    assert evaluation["data"] == config["data"]


def test_labels_are_used(fitted):
    """Under other labels the same images have another evidence."""
    data = pyro_vae.load_data("stripes.npz", binarization="threshold", labels=True)
    loaded = pyro_vae.load_run(fitted, trust=True)
    right = pyro_vae.elbo_terms(loaded.model, loaded.guide, data.test, 100, seed=0)
    images, labels = data.test
    wrong = pyro_vae.elbo_terms(loaded.model, loaded.guide, (images, (labels + 1) % 3), 100, seed=0)
    assert right.elbo.mean != wrong.elbo.mean


def test_every_evaluation_is_given_the_labels(fitted):
    """Each is asked for by name; what refuses would be said to have measured nothing."""
    run(
        "evaluate", fitted, "--trust", "--num_samples", 30, "--out", fitted.parent / "all.json",
        "--ais", "num_test=2, num_temperatures=3", "--bdmc", "num_test=2, num_temperatures=3, num_chains=2",
        "--latent_statistics", "--linear_probe", "--evidence_budget", "num_test=3",
        "--sbc", "num_data=10, num_draws=5", "--inference_gaps", "num_test=2, max_steps=50",
        "--reference_posterior", "num_test=2, num_samples=50, warmup=50",
    )  # fmt: skip
    content = json.loads((fitted.parent / "all.json").read_text())
    assert {"elbo_terms", "log_likelihood", "active_units", "ais", "bdmc", "latent_statistics", "linear_probe",
            "evidence_budget", "sbc", "inference_gaps", "reference_posterior"} == set(content["measured"])  # fmt: skip
    assert "measured nothing" not in " ".join(content["in_words"])


def test_figures_use_the_labels_of_the_images(fitted):
    printed = run("figures", fitted, "--trust")
    names = ["learning_curves", "reconstructions", "prior_samples", "traversal"]
    assert printed.splitlines() == [str(fitted / "figures" / f"{name}.png") for name in names]
    for name in names:
        assert image.imread(fitted / "figures" / f"{name}.png")[..., :3].std() > 0.02


def test_other_labels_are_other_data(fitted):
    """Pixels are equal, labels are not."""
    for words in (["evaluate", fitted, "--num_samples", 31], ["figures", fitted]):
        assert "was fitted to other data" in run(*words, "--trust", "--data", "others.npz", code=2)
    with pytest.raises(pyro_vae.errors.RunError, match="was fitted to other data"):
        pyro_vae.load_run(fitted, data="others.npz", trust=True)
    plain = pyro_vae.load_data("stripes.npz", binarization="threshold")
    with pytest.raises(pyro_vae.errors.RunError, match=r"data\.tensors|tensors: "):
        pyro_vae.load_run(fitted, data=plain, trust=True)


def test_a_run_without_labels_is_another_run(fitted):
    words = [word for word in PAIR if word != "--labels"]
    printed = run("fit", *words, *SETTINGS, "--num_gaps", 2, "--resume", "--out", "run", "--no_labels", code=2)
    assert "labels: was True, is False" in printed


def test_data_without_labels_are_one_clear_error(folder):
    words = ["unlabelled.npy" if word == "stripes.npz" else word for word in SETTINGS]
    printed = run("fit", *PAIR, *words, "--out", "none", code=2)
    assert "--labels asks for a label of each datum, and the data have no labels" in printed


def test_a_model_of_images_alone_says_what_it_is_given(folder):
    printed = run("fit", "--labels", *SETTINGS, "--out", "vae", code=2)
    assert "takes none" in printed


def test_a_killed_run_goes_on_to_the_same_end(folder, fitted):
    """kill -9 after the first checkpoint; parameters are bit-identical to those of a run that was never stopped."""
    words = ["fit", *PAIR, *SETTINGS, "--no_evaluate", "--compile", "trace", "--out", "killed"]
    words[words.index("--epochs") + 1] = "100"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-m", "pyro_vae", *words, "--quiet"], env=environment)
    deadline = time.monotonic() + 120
    while not (folder / "killed" / CHECKPOINT).is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_checkpoint(folder / "killed" / CHECKPOINT)[1]["epoch"] < 100
    run("fit", "--resume", "--out", "killed", "--trust", "--no_evaluate")
    run(*words[:-1], "whole")
    killed, whole = (read_checkpoint(folder / name / CHECKPOINT)[0] for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name


def test_a_grid_has_its_table_and_its_report(folder):
    common = settings(folder / "stripes.npz") | {
        "model": "conditional.py:Conditional", "labels": True, "hidden_dims": [6],
    }  # fmt: skip
    guides = ["conditional.py:Encoder", "conditional.py:Encoder(widened=True)"]
    (folder / "grid.yaml").write_text(yaml.safe_dump({"common": common, "grid": {"guide": guides, "seed": [0, 1]}}))
    run("compare", "grid.yaml", "--out", "comparison", "--trust", "--threads", 1)
    comparison = pyro_vae.comparison.Comparison.read("comparison", trust=True)
    assert [result.error for result in comparison.results] == [None] * 4
    assert len(comparison.table) == 4
    run("report", "comparison", "--trust")
    page = (folder / "comparison" / "report.html").read_text()
    assert page.count('src="data:image/png') >= 6
    assert "cannot be drawn" not in page
    assert "nothing can be drawn" not in page


def test_a_grid_may_compare_what_the_label_tells(folder):
    """Cells with and without labels: each has its own data, and the report says that the two are not alike."""
    common = settings(folder / "stripes.npz") | {"hidden_dims": [6]}
    conditional = {"model": "conditional.py:Conditional", "guide": "conditional.py:Encoder", "labels": True}
    cells = [conditional, {"model": "vae", "guide": "mean_field"}]
    comparison = pyro_vae.compare({"common": common, "cells": cells}, folder / "both", threads=1)
    assert [result.error for result in comparison.results] == [None] * 2
    assert any("Some cells are given the labels y" in caution for caution in cautions(comparison))
