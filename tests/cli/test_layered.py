"""A program with two latent layers, neither named "z", goes through each command as the VAE does."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import small_folders
import yaml
from matplotlib import image

from pyro_vae.cli import main

LAYERED = Path(__file__).with_name("layered.py")

UNITS = ["bottom[0]", "bottom[1]", "bottom[2]", "top[0]", "top[1]"]


def run(*words: object) -> str:
    """Run a command that must succeed, and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    assert code == 0, err.getvalue()
    return out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("layered")
    shutil.copy(LAYERED, path)
    small_folders.write_images(path / "images.npy")
    with contextlib.chdir(path):
        yield path


@pytest.fixture(scope="module")
def fitted(folder):
    printed = run(
        "fit", "--model", "layered.py:Layered", "--guide", "layered.py:BottomUp", "--data", "images.npy",
        "--binarization", "threshold", "--latent-dim", 3, "--hidden-dims", 8, "--epochs", 2, "--batch-size", 10,
        "--num-test", 5, "--num-samples", 20, "--elbo-samples", 3, "--num-gaps", 2, "--compile", "off", "--out", "run",
    )  # fmt: skip
    return folder / "run", printed


def test_a_fit_tells_active_units_by_site(fitted):
    _, printed = fitted
    assert "of 5 latent units active" in printed
    assert "in bottom" in printed
    assert "in top" in printed


def test_a_run_is_measured_again(fitted):
    path, _ = fitted
    printed = run("evaluate", path, "--trust", "--num-samples", 30, "--ais", "num_test=2, num_temperatures=3")
    assert "log p(x)" in printed


def test_figures_show_the_image_and_units_of_both_sites(fitted):
    path, _ = fitted
    printed = run("figures", path, "--trust")
    names = ["learning_curves", "reconstructions", "prior_samples", "traversal"]
    assert printed.splitlines() == [str(path / "figures" / f"{name}.png") for name in names]
    for name in names:
        assert image.imread(path / "figures" / f"{name}.png")[..., :3].std() > 0.02


@pytest.mark.slow
def test_a_grid_has_a_report_with_pictures_of_every_cell(folder):
    settings = small_folders.settings(folder / "images.npy") | {"model": "layered.py:Layered", "num_gaps": 2}
    guides = ["layered.py:BottomUp", 'layered.py:BottomUp(activation="relu")']
    grid = {"common": settings, "grid": {"guide": guides, "seed": [0, 1]}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    run("compare", "grid.yaml", "--out", "comparison", "--trust", "--threads", 1)
    run("report", "comparison", "--trust", "--markdown")
    page = (folder / "comparison" / "report.html").read_text()
    assert page.count('src="data:image/png') == 6
    assert "top[0]" in page
    assert "bottom[0]" in page
    assert "nothing can be drawn" not in page
