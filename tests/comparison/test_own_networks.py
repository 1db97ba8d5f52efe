"""A decoder and an encoder of one's own go wherever ours do: steps, flags, run folders, grids, and messages."""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from small_folders import settings, write_images
from torch.testing import assert_close

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.comparison import Cell, compare, load_cell
from pyro_vae.comparison.run_cell import run_cell
from pyro_vae.errors import RunError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

OWN = '''
import math
import torch
from torch import nn


class Conv(nn.Module):
    """Transposed convolutions from z to an image, which keep all dims before the last."""

    def __init__(self, in_features, out_features, x_shape, channels: int = 3):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.x_shape, self.channels = tuple(x_shape), channels
        height, width = self.x_shape[1:]
        self.start = (channels, height // 2, width // 2)
        self.linear = nn.Linear(in_features, math.prod(self.start))
        self.up = nn.ConvTranspose2d(channels, out_features // (height * width), 4, stride=2, padding=1)

    def forward(self, z):
        h = self.linear(z).reshape(-1, *self.start).relu()
        return self.up(h).reshape(*z.shape[:-1], self.out_features)


class Skip(nn.Module):
    """A linear map and a hidden layer beside it."""

    def __init__(self, in_features, out_features, hidden_dims=(4,)):
        super().__init__()
        self.in_features, self.out_features, self.hidden_dims = in_features, out_features, tuple(hidden_dims)
        self.straight = nn.Linear(in_features, out_features)
        self.hidden = nn.Linear(in_features, hidden_dims[0])
        self.last = nn.Linear(hidden_dims[0], out_features)

    def forward(self, x):
        return self.straight(x) + self.last(self.hidden(x).tanh())


class Narrow(Skip):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Deaf(nn.Module):
    def __init__(self, out_features):
        super().__init__()
        self.linear = nn.Linear(5, out_features)

    def forward(self, x):
        return self.linear(x)


class Fails(nn.Module):
    def __init__(self, in_features, gain: float = 1.0):
        raise RuntimeError("out of ideas")
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "networks_of_ones_own.py"
    path.write_text(OWN)
    yield path
    sys.modules.pop(path.stem, None)


@pytest.fixture
def data(tmp_path) -> Path:
    return write_images(tmp_path / "images.npy")


def own(file: Path) -> dict[str, str]:
    return {"decoder": f"{file}:Conv(channels=2)", "encoder": f"{file}:Skip"}


def flags(data: Path) -> list[object]:
    words: list[object] = []
    for name, value in settings(data).items():
        words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return words


def said(*words: object, code: int = 0) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*map(str, words)]) == code, err.getvalue()
    return out.getvalue() if code == 0 else err.getvalue()


@pytest.mark.parametrize("level", ["off", "trace", "inductor"])
def test_they_are_fitted_measured_kept_and_read_again(level, file, data, tmp_path, caplog):
    cell = Cell.of(settings(data) | own(file) | {"compile": level, "init_bias": False})
    result = run_cell(cell, tmp_path / "run")
    assert result.evaluation["compiled"] == level
    assert [record for record in caplog.records if record.name == "pyro_vae"] == []
    model, guide, images = load_cell(tmp_path / "run", trust=True)
    assert type(model.likelihood.decoder).__name__ == "Conv"
    assert (model.likelihood.decoder.channels, guide.encoder.hidden_dims) == (2, (3,))
    loaded = pyro_vae.load_run(tmp_path / "run", trust=True)
    options = {"seed": 0, "compile": level, "progress": False}
    for a, b in ((model, guide), (loaded.model, loaded.guide)):
        again = pyro_vae.log_likelihood(a, b, images.test[:5], 30, **options)
        assert_close(
            again.per_datum.double(), result.per_datum["log_likelihood.log_likelihood"].double(), rtol=1e-5, atol=1e-5
        )
    with pytest.raises(RunError, match="pass trust=True"):
        load_cell(tmp_path / "run")


def test_the_command_line_and_a_grid_take_them(file, data, tmp_path):
    words = flags(data)
    parts = ["--decoder", f"{file}:Conv", "--decoder.channels", 2, "--encoder", f"{file}:Skip"]
    told = json.loads(said("fit", *words, *parts, "--out", tmp_path / "run", "--json", "--quiet"))
    assert told["settings"]["decoder"] == f"{file}:Conv(channels=2)"
    assert "log p(x) >=" in said("evaluate", tmp_path / "run", "--trust", "--num_samples", 20)
    grid = {
        "common": settings(data),
        "grid": {"decoder": ["mlp", "mlp(activation='relu')", f"{file}:Conv"], "encoder": ["mlp", f"{file}:Skip"]},
    }
    done = compare(grid, tmp_path / "grid", threads=1)
    assert [result.error for result in done.results] == [None] * 6
    assert "encoder mlp, decoder mlp(activation='relu')" in done.configurations


def test_a_frozen_grid_takes_over_the_decoder(file, data, tmp_path):
    grid = {
        "design": "frozen",
        "common": settings(data) | {"decoder": f"{file}:Conv"},
        "grid": {"guide": ["mean_field", "full_rank"]},
    }
    done = compare(grid, tmp_path / "grid", threads=1)
    assert {result.cell.fitted_model.decoder for result in done.results} == {f"{file}:Conv"}
    assert [result.error for result in done.results] == [None] * 2


def test_modules_are_built_again_from_what_they_keep(file, data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    from networks_of_ones_own import Conv, Skip

    torch.manual_seed(0)
    x = torch.rand(40, 1, 4, 4).round()
    model = VAE((1, 4, 4), 2, decoder=Conv(2, 16, (1, 4, 4)))
    guide = MeanFieldGuide((1, 4, 4), 2, encoder=Skip)
    pyro_vae.fit(model, guide, x, epochs=1, batch_size=10, out=tmp_path / "run")
    loaded = pyro_vae.load_run(tmp_path / "run", trust=True)
    assert_close(loaded.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert isinstance(loaded.guide.encoder, Skip)
    assert isinstance(loaded.model.likelihood.decoder, Conv)


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("decoder", "Narrow", "BernoulliLikelihood: `decoder` must return 16 (logit) = 16 features; got shape ("),
        ("encoder", "Narrow", "MeanFieldGuide: `encoder` must return 2 (location) + 2 (log scale) = 4 features"),
        ("decoder", "Deaf", "BernoulliLikelihood: `decoder` must take 2 features; given inputs of shape ("),
        ("encoder", "Fails", "cannot be made with its settings: RuntimeError: out of ideas (networks_of_ones_own"),
        ("encoder", "Nothing", "does not define the class 'Nothing'; it defines Conv, Deaf, Fails, Narrow, Skip."),
        ("decoder", "Conv(channel=2)", "has no option 'channel'. Did you mean 'channels'? It has channels."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_fitted(flag, name, message, file, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = flags(data)
    line = said(
        "fit",
        *words,
        "--init_bias",
        "false",
        f"--{flag}",
        f"{file}:{name}",
        "--out",
        tmp_path / "run",
        "--quiet",
        code=2,
    )
    assert message in line
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()
