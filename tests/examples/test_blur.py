"""The table of sharpness, run as its user runs it; and bits of a density against exact probabilities of grey levels."""

import json
import runpy

import pytest
import torch
from matplotlib import image
from run_an_example import EXAMPLES, run_from_scratch

from pyro_vae import log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import GaussianLikelihood

COLUMNS = ("reconstructions", "samples, mean", "samples, noise")


@pytest.mark.slow
def test_every_model_has_a_row_in_print_and_on_disk(tmp_path):
    done = run_from_scratch("blur.py", "--smoke", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["models"]
    assert len(rows) == 4
    for name, row in rows.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name} ") and "(" in line]
        ratios = [row[column]["sharpness_ratio"] for column in COLUMNS[1:]]
        for value in (row["bits_per_dim"]["mean"], row[COLUMNS[0]]["sharpness_ratio"]["mean"], *ratios):
            assert f" {value:.3f} (" in line
    # The noise of a squared error is far sharper than any image; its mean is blurred.
    squared = rows["Gaussian, scale 1"]
    assert squared["samples, mean"]["sharpness_ratio"] < 1 < squared["samples, noise"]["sharpness_ratio"]
    assert image.imread(tmp_path / "run" / "blur.png")[..., :3].std() > 0.05


def test_bits_of_a_density_are_those_of_its_grey_levels():
    """Where z has no effect and the scale is 25 levels: within 1e-3 bits of the exact mass between half levels."""
    torch.manual_seed(0)
    model = VAE((1, 3, 2), 1, likelihood=GaussianLikelihood((1, 3, 2), 1, (), scale=0.1)).double()
    guide = MeanFieldGuide((1, 3, 2), 1, (4,)).double()
    for parameter in [*model.likelihood.decoder.parameters(), *guide.encoder.parameters()]:
        torch.nn.init.zeros_(parameter)
    x = torch.randint(0, 60, (5, 1, 3, 2)).double() / 255
    evidence = log_likelihood(model, guide, x, num_samples=2, seed=0)
    bits = runpy.run_path(str(EXAMPLES / "blur.py"))["bits_per_dim"](evidence, x)
    law = torch.distributions.Normal(torch.zeros(()).double(), 0.1)
    mass = law.cdf(x + 0.5 / 255) - law.cdf(x - 0.5 / 255)
    exact = -(mass.log2().flatten(1).mean(1))
    assert (bits.per_datum - exact).abs().max() < 1e-3
