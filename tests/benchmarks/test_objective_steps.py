import json

import pytest
from torch import nn

from benchmarks import objectives
from benchmarks.raw_particles import RawParticles
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE


@pytest.mark.parametrize("level", ["trace", "off"])
def test_prints_the_ratio_of_each_objective(level, capsys, caplog):
    objectives.main(
        ["--json", "--level", level, "--batch", "2", "--particles", "3", "--steps", "2", "--rounds", "1"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"IWAE", "DReG"}
    assert all(row.keys() == {"raw_ms", level} and min(row.values()) > 0 for row in found.values())
    # No line that a step could not be captured: what is timed is the level that is printed.
    assert not caplog.records


def test_both_sides_train_the_same_number_of_parameters():
    model, guide = VAE((784,), 50, objectives.HIDDEN_DIMS), MeanFieldGuide((784,), 50, objectives.HIDDEN_DIMS)
    by_hand = RawParticles.new(784, 50, objectives.HIDDEN_DIMS, 50)

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(model, guide) == count(by_hand)
