"""The Frey faces, run as their user runs them, on digits that are installed."""

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import run_an_example
from matplotlib import image

FIGURES = {"learning_curves", "reconstructions", "prior_samples"}
SWEEPS = {"sweeps_from_zero", "sweeps_from_face_0", "sweeps_from_face_1"}


run_example = partial(run_an_example.run_example, "frey_faces.py")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("smoke") / "run"
    return run_an_example.run_from_scratch("frey_faces.py", "--smoke", "--hidden-dims", "20", "--out", str(out)), out


@pytest.mark.slow
def test_prints_the_evidence_of_each_model_and_bits_where_they_exist(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars where there is no terminal, no warnings
    assert done.stdout.count("ELBO ") == done.stdout.count("log p(x) >= ") == 3
    assert done.stdout.count("bits/dim (") == 2  # of the third model's ELBO and evidence; densities have none
    results = json.loads((out / "16_discretized_logistic" / "evaluation.json").read_text())
    for evaluation, name in (("elbo_terms", "elbo_bits_per_dim"), ("log_likelihood", "bits_per_dim")):
        bits = results["measured"][evaluation][name]["mean"]
        assert 0 < bits < 8
        assert f"; {bits:.3f} bits/dim (" in done.stdout


def test_draws_sweeps_of_each_model_and_the_manifold_of_the_plane(smoke):
    _, out = smoke
    manifolds = {"2_gaussian": {"manifold"}, "5_gaussian": set(), "16_discretized_logistic": set()}
    assert {path.name for path in out.iterdir()} == set(manifolds)
    for model, manifold in manifolds.items():
        figures = out / model / "figures"
        assert {path.stem for path in figures.glob("*.png")} == FIGURES | SWEEPS | manifold
        for path in figures.glob("*.png"):
            assert image.imread(path)[..., :3].std() > 0.05, f"{path} is blank"


def test_fits_the_models_that_are_asked_for_with_other_parts(tmp_path):
    parts = ["--guide", "planar(num_flows=2)", "--prior", "mixture"]
    models = ["--model", "2", "discretized_logistic", "--model", "3", 'gaussian(scale="predicted")']
    done = run_example("--smoke", "--hidden-dims", "20", "--num-sweeps", "0", *parts, *models, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"2_discretized_logistic", "3_gaussian"}
    # A plane under another prior than the normal has no quantiles to be even in.
    for folder in tmp_path.iterdir():
        assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES | {"sweeps_from_zero"}


def test_without_the_faces_it_says_where_they_are_looked_for(tmp_path):
    done = run_example("--root", str(tmp_path), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "frey_rawface.mat" in done.stderr.splitlines()[-1]
