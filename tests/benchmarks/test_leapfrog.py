"""The benchmark of a leapfrog step prints its ratios, and its sides compute the same gradients."""

import json

import pytest
import torch
from torch.testing import assert_close

from benchmarks import leapfrog
from benchmarks.importance import images, pair
from pyro_vae.evaluation.annealing.density_path import Path

SMALL = ["--images", "3", "--chains", "2", "--steps", "2", "--rounds", "1", "--no-compile"]


@pytest.mark.slow
def test_leapfrog_prints_the_ratios_to_a_bare_decoder_pass(capsys, measure_once):
    measure_once(leapfrog)
    leapfrog.main(["--json", *SMALL])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"decoder_ms", "gflops", "by_hand", "off", "trace"}
    assert all(value > 0 for value in found.values())
    leapfrog.main(SMALL)
    out = capsys.readouterr().out
    assert out.startswith("6 rows, float32, decoder 50-200-200-784")
    assert "leapfrog step, trace" in out


def test_the_sides_evaluate_the_same_log_joint(monkeypatch):
    """What by_hand differentiates is what the path's two terms add up to, with the same gradient."""
    model, _ = pair()
    model, x, z = model.double(), images(3).double(), torch.randn(2, 3, 50).double()
    seen, real = [], torch.autograd.grad

    def record(total, u):
        seen.append((total.detach(), *real(total, u)))

    monkeypatch.setattr(torch.autograd, "grad", record)
    leapfrog.by_hand(model.likelihood.decoder, x, z, 1)(0)
    monkeypatch.undo()
    base, ratio, base_slope, ratio_slope = Path("test", model, None, x).at(x, z)
    assert_close(seen[0][0], (base + ratio).sum(), rtol=1e-10, atol=0)
    assert_close(seen[0][1], base_slope + ratio_slope, rtol=1e-9, atol=1e-9)
