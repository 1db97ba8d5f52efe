"""Several seeds at once, run as their user runs them: alone or in company the same bits, and none takes others down."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import pytest
import run_an_example
import torch
import yaml
from safetensors.torch import load_file

from pyro_vae import load_run

CHECKPOINT = "checkpoint/last.safetensors"

run_example = partial(run_an_example.run_example, "several_seeds.py")

GUIDES = """
import os
import signal

import torch

from pyro_vae.guides import MeanFieldGuide


class Guide(MeanFieldGuide):
    def __init__(self, x_shape, latent_dim, hidden_dims):
        if torch.initial_seed() == 1:
            raise ValueError("no guide for seed 1")
        if torch.initial_seed() == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(x_shape, latent_dim, hidden_dims)
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds") / "runs"
    return run_example("--smoke", "--seeds", "0", "1", "--jobs", "2", "--out", str(out)), out


def read(out: Path) -> dict:
    return json.loads((out / "table.json").read_text())


def assert_same_state(folder: Path, other: Path) -> None:
    """Parameters, the optimizer's moments, the state of the noise: bit for bit."""
    one, two = load_file(folder / CHECKPOINT), load_file(other / CHECKPOINT)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_seed_is_printed_and_so_are_mean_and_standard_deviation(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars, no warnings
    table = read(out)
    assert table["data"]["name"] == "mnist-5k"
    assert list(table["seeds"]) == ["0", "1"]
    for seed, row in table["seeds"].items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"seed {seed}:")]
        assert f"ELBO {row['elbo'][0]:.2f} " in line
        assert f"log p(x) >= {row['log_likelihood'][0]:.2f} " in line
    for key, found in table["over_seeds"].items():
        values = [row[key][0] for row in table["seeds"].values()]
        assert values[0] != values[1]
        assert found == {"mean": mean(values), "sd": stdev(values)}
        assert f"{found['mean']:.2f} (sd {found['sd']:.2g})" in done.stdout


def test_every_seed_has_a_run_folder_fitted_with_the_threads_asked_for(smoke):
    for seed in (0, 1):
        run = load_run(smoke[1] / f"seed_{seed}")
        assert run.config["seed"] == seed
        assert run.config["environment"]["threads"] == 1


def test_a_seed_alone_has_the_bits_it_has_in_company(smoke, tmp_path):
    alone = run_example("--smoke", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path))
    assert alone.returncode == 0, alone.stderr
    assert_same_state(smoke[1] / "seed_1", tmp_path / "seed_1")
    rows = [read(out)["seeds"]["1"] for out in (smoke[1], tmp_path)]
    assert rows[0]["elbo"] == rows[1]["elbo"]
    assert rows[0]["log_likelihood"] == rows[1]["log_likelihood"]
    assert read(tmp_path)["over_seeds"] == {"elbo": None, "log_likelihood": None}


def test_a_seed_that_fails_or_dies_is_named_and_the_others_finish(tmp_path):
    (tmp_path / "failing.py").write_text(GUIDES)
    out = tmp_path / "runs"
    flags = ("--seeds", "1", "2", "0", "--jobs", "2", "--threads", "2", "--out", str(out))
    done = run_example("--smoke", "--guide", f"{tmp_path / 'failing.py'}:Guide", *flags)
    assert done.returncode == 1
    assert set(done.stderr.splitlines()[-2:]) == {
        "seed 1 failed: ValueError: no guide for seed 1",
        "seed 2 failed: its process was killed: out of memory, or a crash",
    }
    seeds = read(out)["seeds"]
    assert [seed for seed, row in seeds.items() if "error" not in row] == ["0"]
    assert yaml.safe_load((out / "seed_0" / "config.yaml").read_text())["environment"]["threads"] == 2


def test_killed_seeds_stop_at_once_and_go_on_to_the_same_bits(tmp_path):
    """The parent alone is killed, in the midst of epochs; then resumed, beside a seed that was never killed."""
    script = run_an_example.EXAMPLES / "several_seeds.py"
    flags = ("--seeds", "0", "1", "--jobs", "2", "--num-samples", "5", "--hidden-dims", "20", "--epochs")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    folders = [killed / "seed_0", killed / "seed_1"]
    process = subprocess.Popen([sys.executable, script, *flags, "100000", "--out", killed])
    try:
        deadline = time.monotonic() + 120
        while not all((folder / CHECKPOINT).exists() for folder in folders):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    time.sleep(2)
    epochs = [len(load_run(folder).history) for folder in folders]
    time.sleep(2)
    assert [len(load_run(folder).history) for folder in folders] == epochs
    total = str(max(epochs) + 1)
    for out, more in ((killed, ("--resume",)), (whole, ("--seeds", "0", "--jobs", "1"))):
        done = run_example(*flags, total, "--out", str(out), *more)
        assert done.returncode == 0, done.stderr
    assert_same_state(folders[0], whole / "seed_0")
    assert len(load_run(folders[1]).history) == int(total)
