import json
import math
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from benchmarks import guides, importance, log_likelihood, step, training
from benchmarks.floors import layer_sizes
from benchmarks.opponents import Opponent
from benchmarks.pyro_example import ExampleVAE
from benchmarks.raw_particles import RawParticles
from benchmarks.raw_vae import RawVAE
from pyro_vae import log_likelihood as our_log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

NEEDS = {"numpyro": ("numpyro_jit", "numpyro_scan"), "pythae": ("pythae", "pythae_same_batches")}
"""What sides of a step need beside the project's own dependencies."""

SMALL = ("--num-data", "40", "--rounds", "1", "--seconds", "0.001", "--batch", "20")
"""A step that is measured in a moment."""


@pytest.mark.slow
def test_step_prints_the_ratios_of_each_batch_size(capsys, monkeypatch):
    # No need to wait for a compiler.
    monkeypatch.setitem(step.SIDES, "inductor", step.SIDES["trace"])
    step.main(["--json", *SMALL])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found.keys() == {"20"}
    absent = {name for library, names in NEEDS.items() if find_spec(library) is None for name in names}
    assert found["20"].keys() == {"raw_ms", *step.SIDES} - {"raw"} - absent
    assert all(value > 0 for value in found["20"].values())
    assert [line.split()[1] for line in err.splitlines() if "is left out" in line] == [
        name for name in step.SIDES if name in absent
    ]


def test_step_leaves_out_a_side_whose_library_is_missing_and_says_so(capsys, monkeypatch):
    monkeypatch.setitem(step.SIDES, "numpyro_scan", lambda *_: import_module("not_installed"))
    step.main(["--json", *SMALL, "--sides", "trace", "numpyro_scan"])
    out, err = capsys.readouterr()
    assert json.loads(out)["20"].keys() == {"raw_ms", "trace"}
    assert err == (
        "benchmarks.step: numpyro_scan is left out: not_installed is not installed; benchmarks/README.md says how\n"
    )


def test_step_does_not_take_a_missing_file_of_its_own_for_a_library(monkeypatch):
    monkeypatch.setitem(step.SIDES, "numpyro_scan", Opponent("no_such_file", "side"))
    with pytest.raises(ModuleNotFoundError, match="no_such_file"):
        step.main([*SMALL, "--sides", "numpyro_scan"])


@pytest.mark.slow
def test_guides_prints_the_ratios_of_each_guide(capsys, measure_once):
    measure_once(guides)
    small = ["--guides", "low_rank(rank=2)", "--levels", "trace", "--rounds", "1", "--steps", "2", "--batch", "4"]
    guides.main(["--json", *small])
    found = json.loads(capsys.readouterr().out)
    assert {name: row.keys() for name, row in found.items()} == {
        "mean_field": {"off", "trace", "ms"},
        "low_rank(rank=2)": {"off", "trace"},
    }
    assert found["mean_field"]["off"] == 1
    assert all(value > 0 for row in found.values() for value in row.values())
    guides.main(small)
    assert capsys.readouterr().out.startswith("x the mean_field step as Pyro runs it (")


@pytest.mark.slow
def test_log_likelihood_prints_speeds_and_memory(capsys, monkeypatch):
    monkeypatch.setattr(log_likelihood, "peak_mb", lambda *_: 12.5)
    monkeypatch.setattr(log_likelihood, "MATMULS", ((2, 2, 2),))
    # No need to wait for a compiler.
    ours = importance.ours
    levels = {"auto": "off", "inductor": "trace"}
    monkeypatch.setattr(importance, "ours", lambda *args: ours(*args[:-1], levels[args[-1]]))
    log_likelihood.main(["--json", "--images", "2", "--num-samples", "50", "--rounds", "1", "--traces", "2"])
    found = json.loads(capsys.readouterr().out)
    ratios = {"vs_plain", "share_of_matmul_peak", "vs_one_trace_a_sample", "inductor", "inductor_with_compile"}
    assert found.keys() == ratios | {"image_samples_per_second", "compile_seconds", "peak_mb"}
    assert found.pop("peak_mb") == 12.5
    found.pop("compile_seconds")
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("hidden_dims", step.HIDDEN_DIMS.values())
def test_the_sides_train_the_same_number_of_parameters(hidden_dims):
    sizes = training.X_DIM, training.LATENT_DIM, hidden_dims
    model, guide = VAE((784,), 50, hidden_dims[::-1]), MeanFieldGuide((784,), 50, hidden_dims)
    sides = [[model, guide], [RawVAE(*sizes)], [ExampleVAE(*sizes)], [RawParticles.new(*sizes, num_particles=5)]]
    counts = {sum(p.numel() for module in side for p in module.parameters()) for side in sides}
    assert len(counts) == 1
    assert counts == {sum((n_in + 1) * n_out for n_in, n_out in layer_sizes(hidden_dims))}


def test_the_plain_estimate_is_the_librarys():
    torch.manual_seed(0)
    model, guide = importance.pair()
    x = importance.images(3)
    plain = importance.plain_log_likelihood(guide.encoder, model.likelihood.decoder, x, 2000, 500)
    ours = our_log_likelihood(model, guide, x, 2000, seed=1, progress=False)
    # Both have the same error; 5 of their difference's.
    assert ((plain - ours.per_datum).abs() < 5 * math.sqrt(2) * ours.standard_errors).all()
