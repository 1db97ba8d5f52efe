"""The main job, run as its user runs it."""

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import run_an_example
import yaml
from matplotlib import image

FIGURES = {"learning_curves", "reconstructions", "prior_samples", "traversal"}


run_example = partial(run_an_example.run_example, "svi_mnist.py")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("smoke") / "run"
    return run_an_example.run_from_scratch("svi_mnist.py", "--smoke", "--latent-dim", "2", "--out", str(out)), out


def test_prints_the_terms_of_the_elbo_the_log_likelihood_and_active_units(smoke):
    done, _ = smoke
    assert done.returncode == 0, done.stderr
    for words in ("ELBO -", "= reconstruction -", "- rate ", "log p(x) >= -", "s.e.", "k-hat > ", "units active"):
        assert words in done.stdout
    assert done.stderr == ""  # no bars where there is no terminal, no warnings


def test_keeps_what_was_really_used_and_every_figure(smoke):
    _, out = smoke
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["name"] == "mnist-5k"
    assert config["data"]["sizes"] == {"train": 4000, "valid": 500, "test": 500}
    results = json.loads((out / "evaluation.json").read_text())
    measured = results["measured"]
    elbo, log_likelihood = measured["elbo_terms"]["elbo"], measured["log_likelihood"]["log_likelihood"]
    assert log_likelihood["num_data"] == elbo["num_data"] == 100
    assert measured["log_likelihood"]["num_samples"] == 50
    assert results["data"]["content_hash"] == config["data"]["content_hash"]
    assert elbo["mean"] < log_likelihood["mean"]
    assert f"ELBO {elbo['mean']:.2f}" in smoke[0].stdout
    drawn = {path.stem for path in (out / "figures").glob("*.png")}
    assert drawn == FIGURES | {"manifold"}
    for name in drawn:
        pixels = image.imread(out / "figures" / f"{name}.png")
        assert pixels[..., :3].std() > 0.05, f"{name} is blank"


def test_resuming_a_finished_run_says_the_same(smoke, tmp_path):
    done, out = smoke
    again = run_example("--smoke", "--latent-dim", "2", "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout


def test_auto_without_network_falls_back_to_the_embedded_images_loudly(tmp_path):
    # Port 9 refuses at once, as a machine without a network does.
    proxy = "http://127.0.0.1:9"
    done = run_example(
        "--root", str(tmp_path / "empty"), "--epochs", "1", "--num-samples", "1", "--num-test", "20",
        "--hidden-dims", "20", "--out", str(tmp_path / "run"),
        http_proxy=proxy, https_proxy=proxy, no_proxy="", PYRO_VAE_DATA="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "NOT full MNIST" in done.stderr
    assert "comparable with published tables" in done.stderr
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["name"] == "mnist-5k"


def test_parts_are_swapped_by_name(tmp_path):
    """Grey pixels under a density; no manifold, whose grid belongs to the standard normal prior."""
    parts = ("--guide", "low_rank", "--prior", "mixture", "--likelihood", "continuous_bernoulli")
    out = tmp_path / "run"
    done = run_example("--smoke", *parts, "--binarization", "none", "--latent-dim", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    config = (out / "config.yaml").read_text()
    assert all(name in config for name in ("LowRankGuide", "GaussianMixturePrior", "ContinuousBernoulliLikelihood"))
    assert not (out / "figures" / "manifold.png").exists()
    assert (out / "figures" / "traversal.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "mnits"), "mnist"),
        (("--smoke", "--device", "abacus"), "abacus"),
        (("--smoke", "--binarization", "grey"), "grey"),
        (("--smoke", "--guide", "low_rang"), "--guide: unknown name 'low_rang'. Did you mean 'low_rank'?"),
        (("--smoke", "--guide", "low_rank(rank=60)"), "LowRankGuide: rank must be from 1 to 50 (latent_dim); got 60."),
        (("--smoke", "--batch-size", "0"), "--batch_size must be"),
        (("--smoke", "--latent_dim=0"), "--latent_dim must be"),
        (("--smoke", "--likelihood", "bernoulli", "--binarization", "none"), "support"),
    ],
)
def test_bad_flags_end_with_a_message_and_a_failure(tmp_path, flags, message):
    done = run_example(*flags, "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]


def test_a_new_user_s_second_command_works_and_a_third_is_refused_in_one_line(tmp_path):
    """A smoke run lies elsewhere; a second run in the next folder; a folder that holds a run is kept."""
    flags = ("--data", "mnist-5k", "--epochs", "1", "--num-samples", "1", "--num-test", "20", "--hidden-dims", "20")
    done = run_example("--smoke", "--hidden-dims", "20", "--latent-dim", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Figures and numbers are in runs/smoke/svi_mnist.\n")
    for folder in ("svi_mnist", "svi_mnist-2"):
        done = run_example(*flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"on mnist-5k in runs/{folder}: " in done.stdout
        assert done.stderr == ""
    done = run_example(*flags, "--out", "runs/svi_mnist", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "svi_mnist.py: error: runs/svi_mnist holds a run already: --resume goes on with it, --overwrite starts again, "
        "another --out keeps both.\n"
    )
    config = yaml.safe_load((tmp_path / "runs" / "svi_mnist" / "config.yaml").read_text())
    assert config["epochs"] == 1


@pytest.mark.parametrize(
    "script", ["svi_mnist", "frey_faces", "importance_weighted_ll", "inference_gaps", "compare_posteriors"]
)
def test_an_error_of_any_example_is_one_line(script, tmp_path):
    """Where its results should go lies a file."""
    (tmp_path / "file").write_text("mine")
    done = run_an_example.run_example(f"{script}.py", "--smoke", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert line.startswith(f"{script}.py: error: ")
    assert str(tmp_path / "file") in line
