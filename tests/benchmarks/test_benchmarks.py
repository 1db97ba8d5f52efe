import json
import math

import pytest
import torch

from benchmarks import guides, importance, log_likelihood, step, training
from benchmarks.pyro_example import ExampleVAE
from benchmarks.raw_vae import RawVAE
from pyro_vae import log_likelihood as our_log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE


def test_step_prints_the_ratios_of_each_batch_size(capsys, monkeypatch):
    monkeypatch.setattr(step, "NUM_DATA", 40)
    step.main(["--json", "--rounds", "1", "--seconds", "0.001", "--batch", "20"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"20"}
    assert found["20"].keys() == {"raw_ms", "trace", "off", "pyro_example"}
    assert all(value > 0 for value in found["20"].values())


def test_guides_prints_the_ratios_of_each_guide(capsys):
    guides.main(["--json", "--guides", "low_rank(rank=2)", "--rounds", "1", "--steps", "2", "--batch", "4"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"mean_field", "low_rank(rank=2)"}
    assert found["mean_field"]["trace"] == found["mean_field"]["off"] == 1
    assert all(value > 0 for row in found.values() for value in row.values())


def test_log_likelihood_prints_speeds_and_memory(capsys, monkeypatch):
    monkeypatch.setattr(log_likelihood, "peak_mb", lambda *_: 12.5)
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
    sides = [[model, guide], [RawVAE(*sizes)], [ExampleVAE(*sizes)]]
    counts = {sum(p.numel() for module in side for p in module.parameters()) for side in sides}
    assert len(counts) == 1


def test_the_plain_estimate_is_the_librarys():
    torch.manual_seed(0)
    model, guide = importance.pair()
    x = importance.images(3)
    plain = importance.plain_log_likelihood(guide.encoder, model.likelihood.decoder, x, 2000, 500)
    ours = our_log_likelihood(model, guide, x, 2000, seed=1, progress=False)
    # Both have the same error; 5 of their difference's.
    assert ((plain - ours.per_datum).abs() < 5 * math.sqrt(2) * ours.standard_errors).all()
