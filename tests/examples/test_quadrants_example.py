"""The missing quadrants, run as their user runs it: a row for each number of given quadrants, kept and drawn."""

import json
import runpy

import pytest
import torch
from matplotlib import image
from run_an_example import EXAMPLES, run_example
from torch import nn

from pyro_vae.data.quadrants import Quadrants


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_encoder_sees_the_whole_image_and_the_decoder_z_alone(number):
    script = runpy.run_path(str(EXAMPLES / "quadrants.py"))
    quadrants, images = Quadrants((2, 4, 6), number), torch.rand(5, 2, 4, 6)
    x, y = quadrants.split(images)
    sizes = {"out_features": 3, "hidden_dims": (4,), "activation": "tanh"}
    encoder = script["OfWholeImage"](**sizes, quadrants=quadrants)
    encoder.network = nn.Identity()
    assert torch.equal(encoder(torch.cat([x, y.flatten(1)], 1)), images.flatten(1))
    decoder = script["OfLatent"](**sizes, latent_dim=2)
    z = torch.randn(5, 2)
    assert torch.equal(decoder(torch.cat([z, y.flatten(1)], 1)), decoder.network(z))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("quadrants") / "run"
    return run_example("quadrants.py", "--smoke", "--out", str(out)), out


@pytest.mark.slow
def test_both_are_measured_on_the_same_missing_pixels(smoke):
    done, out = smoke
    assert done.returncode == 0, done.stderr
    table = json.loads((out / "table.json").read_text())
    assert list(table["given"]) == ["1", "2"]
    for given, row in table["given"].items():
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [given]]
        for quantity in ("plain", "conditional", "minus_elbo", "difference"):
            assert f" {row[quantity]['mean']:.2f} (" in line
        assert row["difference"]["mean"] == pytest.approx(row["plain"]["mean"] - row["conditional"]["mean"])
        assert row["conditional"]["mean"] <= row["minus_elbo"]["mean"]
    # Fewer pixels have fewer nats.
    assert table["given"]["2"]["plain"]["mean"] < table["given"]["1"]["plain"]["mean"]


@pytest.mark.slow
def test_the_completions_are_drawn(smoke):
    for given in (1, 2):
        assert image.imread(smoke[1] / f"completions_{given}.png")[..., :3].std() > 0.05
