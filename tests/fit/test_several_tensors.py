"""Data of several tensors: all of them reach model and guide, in order."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import fit, load_run, log_likelihood
from pyro_vae.errors import RunError, SupportError

GAIN = 1.5
LEVELS = ["off", "trace"]


class Regression(PyroModule):
    """x ~ N(shift * y + z, 1), z ~ N(0, 1), y given: log p(x | y) = log N(x; shift * y, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("latent", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.shift * y + z, 1.0), obs=x)


class Exact(PyroModule):
    """The posterior N((x - gain * y) / 2, 1/2), where gain is the model's shift: every weight is the evidence."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("latent", dist.Normal((x - self.gain * y) / 2, 0.5**0.5))


def data(n: int = 30) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 3, n)
    return x, x.sin()


def evidence(x: Tensor, y: Tensor) -> float:
    return dist.Normal(GAIN * y, 2**0.5).log_prob(x).mean().item()


@pytest.mark.parametrize("compile", LEVELS)
def test_the_bound_is_the_evidence_given_all_tensors(compile):
    """At a learning rate of 0, under an exact guide: training and validation, in float64 data too."""
    x, y = data()
    run = fit(
        Regression(), Exact(), (x.double(), y), valid=(x[:7], y[:7]), epochs=2, batch_size=30,
        optimizer=lambda p: SGD(p, lr=0.0), compile=compile,
    )  # fmt: skip
    assert run.compiled == compile
    for row in run.history:
        assert row["train_bound_nats"] == pytest.approx(evidence(x, y), rel=1e-5)
        assert row["valid_bound_nats"] == pytest.approx(evidence(x[:7], y[:7]), rel=1e-5)


@pytest.mark.parametrize("compile", LEVELS)
def test_steps_are_those_of_pyros_own_loop(compile):
    """All of 4000 data in each of 5 steps: both move by the same, but for noise of a hundredth of the move a step."""
    x, y = data(4000)
    model, guide = Regression(), Exact()
    fit(model, guide, (x, y), epochs=5, batch_size=4000, optimizer=lambda p: SGD(p, lr=1e-5), compile=compile)
    with pyro.settings.context(module_local_params=True):
        by_hand = Regression(), Exact()
        loss = Trace_ELBO()(*by_hand)
        optimizer = SGD(loss.parameters(), lr=1e-5)
        for _ in range(5):
            optimizer.zero_grad()
            loss(x, y).backward()
            optimizer.step()
    move = by_hand[0].shift.item() - GAIN
    assert abs(move) > 1e-3
    assert model.shift.item() - GAIN == pytest.approx(move, rel=0.15)


@pytest.mark.parametrize("compile", LEVELS)
def test_a_loader_gives_the_same_as_the_tensors(compile):
    """All data as one batch: parameters are equal, bit for bit. A generator of its own leaves the noise to the pair."""

    def loader(*columns: Tensor) -> DataLoader:
        return DataLoader(TensorDataset(*columns), batch_size=30, generator=torch.Generator().manual_seed(0))

    x, y = data()
    fitted = []
    for batches, valid in (((x, y), (x[:7], y[:7])), (loader(x.double(), y), loader(x[:7], y[:7]))):
        model, guide = Regression(), Exact()
        run = fit(model, guide, batches, valid=valid, epochs=3, batch_size=30, compile=compile)
        assert run.compiled == compile
        fitted.append((model.shift.item(), guide.gain.item(), run.history[-1]["valid_bound_nats"]))
    assert fitted[0][0] != GAIN
    assert fitted[0] == fitted[1]


def test_a_loader_of_several_tensors_has_a_ragged_last_batch():
    """Another shape is another graph; the bound is over all data."""
    x, y = data(25)
    loader = DataLoader(TensorDataset(x, y), batch_size=10)
    run = fit(Regression(), Exact(), loader, epochs=2, optimizer=lambda p: SGD(p, lr=0.0))
    for row in run.history:
        assert row["train_bound_nats"] == pytest.approx(evidence(x, y), rel=1e-5)


def test_a_run_folder_knows_all_tensors(tmp_path):
    x, y = data()
    settings = {"epochs": 1, "batch_size": 10, "out": tmp_path}
    run = fit(Regression(), Exact(), (x, y), **settings)
    assert run.data["name"] == "tensors"
    assert run.data["shapes"] == [[30], [30]]
    again = fit(Regression(), Exact(), (x, y), **{**settings, "epochs": 2}, resume=True)
    assert [row["epoch"] for row in again.history] == [1, 2]
    with pytest.raises(RunError, match=r"data\.content_hash: was"):
        fit(Regression(), Exact(), (x, y + 1), **{**settings, "epochs": 2}, resume=True)
    loaded = load_run(tmp_path, trust=True)
    found = log_likelihood(loaded.model, loaded.guide, (x, y), 5)
    assert math.isfinite(found.mean)


def test_a_label_outside_its_support_is_found_before_a_step():
    class Labelled(Regression):
        def forward(self, x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("latent", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("y", dist.Bernoulli(0.5), obs=y)
                pyro.sample("x", dist.Normal(self.shift * y + z, 1.0), obs=x)

    x, y = data()
    with pytest.raises(SupportError, match="site 'y'"):
        fit(Labelled(), Exact(), (x, y), epochs=1, batch_size=10)
