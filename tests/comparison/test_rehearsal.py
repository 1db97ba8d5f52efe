"""Before a cell is fitted: what cannot be measured afterwards is found, and what can be goes through to its figures."""

import sys
from dataclasses import replace

import pytest

from pyro_vae.cli import main
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.evaluations import _packaged
from pyro_vae.comparison.results import is_fitted
from pyro_vae.comparison.run_cell import load_data_of, rehearse, run_cell

PROGRAMS = '''
import pyro
import torch
from pyro import distributions as dist
from torch import nn


class Own(nn.Module):
    """A model whose latent sites are called otherwise, and which returns nothing."""

    def __init__(self, x_shape, latent_dim=2, hidden_dims=(4,), activation="tanh", sites: int = 1) -> None:
        super().__init__()
        self.x_shape, self.latent_dim, self.sites = tuple(x_shape), latent_dim, sites
        self.decoder = nn.Linear(latent_dim * sites, 784)

    def prior(self):
        return dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Bernoulli(logits=self.decoder(z).unflatten(-1, self.x_shape)).to_event(3)

    def forward(self, x):
        with pyro.plate("images", len(x), dim=-1):
            parts = [pyro.sample(f"latent_{i}", self.prior()) for i in range(self.sites)]
            pyro.sample("pixels", self.likelihood(torch.cat(parts, -1)), obs=x)


class Guide(nn.Module):
    """Its guide."""

    def __init__(self, x_shape, latent_dim=2, hidden_dims=(4,), activation="tanh", sites: int = 1, fails: bool = False):
        super().__init__()
        self.latent_dim, self.sites, self.fails = latent_dim, sites, fails
        self.encoder = nn.Linear(784, latent_dim * sites)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        if self.fails and not self.training:
            raise ValueError("this guide runs in training mode alone")
        means = self.encoder(x.flatten(1)).split(self.latent_dim, -1)
        with pyro.plate("images", len(x), dim=-1):
            for i, mean in enumerate(means):
                pyro.sample(f"latent_{i}", dist.Normal(mean, self.log_scale.exp()).to_event(1))
'''
TINY = {
    "latent_dim": 2, "hidden_dims": (4,), "epochs": 1, "num_test": 20, "num_samples": 5, "elbo_samples": 2,
    "compile": "off", "init_bias": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "programs_to_rehearse.py"
    path.write_text(PROGRAMS)
    yield path
    sys.modules.pop(path.stem, None)


def flags(settings):
    for name, value in settings.items():
        if name == "init_bias":
            yield "--no-init_bias"
        else:
            yield from (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))


@pytest.mark.parametrize("sites", [1, 2])
def test_latents_of_any_name_and_number_go_through_all_commands(sites, programs, tmp_path, capsys):
    out = tmp_path / "run"
    own = ["--model", f"{programs}:Own(sites={sites})", "--guide", f"{programs}:Guide(sites={sites})"]
    assert main(["fit", *own, *flags(TINY), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "ELBO" in said
    assert f"of {2 * sites} latent units active" in said
    assert ("in latent_0" in said) == (sites == 2)
    assert main(["evaluate", str(out), "--num_samples", "6", "--ais",
                 "num_test=2, num_chains=2, num_temperatures=3", "--quiet", "--trust"]) == 0  # fmt: skip
    assert "AIS" in capsys.readouterr().out
    assert main(["figures", str(out), "--trust"]) == 0
    drawn = {line.rpartition("/")[2] for line in capsys.readouterr().out.split()}
    assert drawn == {"learning_curves.png", "reconstructions.png", "prior_samples.png", "traversal.png"}


def test_what_cannot_be_measured_is_found_before_a_step(programs, tmp_path):
    cell = Cell(model=f"{programs}:Own", guide=f"{programs}:Guide(fails=True)", **TINY)
    with pytest.raises(ValueError, match="training mode alone"):
        run_cell(cell, tmp_path / "run")
    assert not is_fitted(tmp_path / "run", cell)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_gaps_are_rehearsed_too(programs, monkeypatch):
    cell = Cell(model=f"{programs}:Own", guide=f"{programs}:Guide", num_gaps=2, **TINY)
    rehearse(cell, load_data_of(cell))

    def refuse(*_, max_steps, **options):
        assert max_steps == 2
        raise ValueError("this pair has no gaps")

    known = _packaged()
    monkeypatch.setitem(known, "inference_gaps", replace(known["inference_gaps"], function=refuse))
    with pytest.raises(ValueError, match="this pair has no gaps"):
        rehearse(cell, load_data_of(cell))


def test_a_rehearsal_changes_no_number(programs, tmp_path, monkeypatch):
    cell = Cell(model=f"{programs}:Own", guide=f"{programs}:Guide", **TINY)
    rehearsed = run_cell(cell, tmp_path / "one")
    monkeypatch.setattr("pyro_vae.comparison.run_cell.rehearse", lambda *_: None)
    straight = run_cell(cell, tmp_path / "two")
    assert rehearsed.measured == straight.measured
