"""The Frey faces, run as their user runs them, on digits that are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import image

ROOT = Path(__file__).parents[2]
FIGURES = {"learning_curves", "reconstructions", "prior_samples", "sweep_0", "sweep_1", "sweep_2"}


def run_example(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Importing torch 2.6 leaves a temporary directory behind.
    warnings = ["-W", "error", "-W", "ignore:Implicitly cleaning up:ResourceWarning"]
    return subprocess.run(
        [sys.executable, *warnings, ROOT / "examples" / "frey_faces.py", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("smoke") / "run"
    return run_example("--smoke", "--hidden-dims", "20", "--out", str(out)), out


def test_prints_nats_and_bits_of_each_model(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars where there is no terminal, no warnings
    assert done.stdout.count("ELBO ") == done.stdout.count("log p(x) >= ") == 2
    for latent_dim in (2, 3):
        results = json.loads((out / f"latent_{latent_dim}" / "evaluation.json").read_text())
        for name in ("elbo", "log_likelihood"):
            assert 0 < results[name]["bits_per_dim"] < 8
            assert f"; {results[name]['bits_per_dim']:.3f} bits/dim (" in done.stdout


def test_draws_sweeps_of_each_model_and_the_manifold_of_the_plane(smoke):
    _, out = smoke
    for latent_dim, extra in ((2, {"manifold"}), (3, set())):
        figures = out / f"latent_{latent_dim}" / "figures"
        assert {path.stem for path in figures.glob("*.png")} == FIGURES | extra
        for path in figures.glob("*.png"):
            assert image.imread(path)[..., :3].std() > 0.05, f"{path} is blank"


def test_a_density_has_no_bits(tmp_path):
    done = run_example("--smoke", "--hidden-dims", "20", "--likelihood", "gaussian", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "log p(x) >= " in done.stdout
    assert "bits/dim" not in done.stdout


def test_without_the_faces_it_says_where_they_are_looked_for(tmp_path):
    done = run_example("--root", str(tmp_path), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "frey_rawface.mat" in done.stderr.splitlines()[-1]
