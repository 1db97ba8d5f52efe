"""A pair that changes while its graph is run is found out, and one that does not is left in peace."""

import re
from contextlib import nullcontext
from functools import partial

import pyro
import pytest
import torch
from fit_programs import REPARAMETERIZED, PairAndData, loss_of, mean_field, state
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.optim import Adam

from pyro_vae import fit
from pyro_vae.errors import StaleGraphError
from pyro_vae.fit.steps.auto_step import make_step
from pyro_vae.fit.steps.watch import Watch


class Changing:
    """Batches of a loader's kind that change something of the pair's as an epoch goes on."""

    def __init__(self, x: Tensor, change, at: int, batches: int = 12) -> None:
        self.x, self.change, self.at, self.batches = x, change, at, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.batches:
            raise IndexError(index)
        self.last = index
        if index == self.at:
            self.change()
        return self.x


def loader(*args, **settings) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(Changing(*args, **settings), batch_size=None)


class Scaled:
    """A pair that counts as much as a Python number says, and whose model may grow a site."""

    def __init__(self, vae, guide) -> None:
        self.vae, self.encoder, self.weight, self.grown = vae, guide, 1.0, False

    def guide(self, x: Tensor) -> None:
        with poutine.scale(scale=self.weight):
            self.encoder(x)

    def model(self, x: Tensor) -> None:
        with poutine.scale(scale=self.weight):
            self.vae(x)
        if self.grown:
            pyro.sample("extra", dist.Normal(0.0, 1.0), obs=torch.zeros(()))


class Watched:
    """A pair that is trained a step at a time, and looked at now and then."""

    def __init__(self, pair: PairAndData, every: int) -> None:
        loss, self.beta = loss_of(pair), torch.ones(())
        self.step = make_step("trace", loss, Adam(loss.parameters, lr=1e-2))
        self.watch = Watch(loss, torch.arange(13), every)
        self.losses: list[float] = []

    def take(self, rows: Tensor) -> None:
        self.losses.append(self.step(rows, self.beta).item())
        self.watch.after(self.step, rows, self.beta)


def test_a_change_is_found_at_the_next_look():
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    training = Watched(PairAndData(pair.model, pair.guide, x), every=4)
    for _ in range(5):
        training.take(torch.arange(13))
    pair.weight = 0.9
    training.take(torch.arange(13))
    training.take(torch.arange(13))
    with pytest.raises(StaleGraphError, match="the last look, at most 4,"):
        training.take(torch.arange(13))


def test_fit_looks_every_thousand_steps():
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    data = loader(x, partial(setattr, pair, "weight", 0.9), at=5, batches=1100)
    with pytest.raises(StaleGraphError, match="at most 1000"):
        fit(pair.model, pair.guide, data, epochs=1)
    assert data.dataset.last == 999


@pytest.mark.parametrize("level", ["trace", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_python_number_that_changes_is_found(level):
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    data = loader(x, partial(setattr, pair, "weight", 0.9), at=5)
    with pytest.raises(StaleGraphError) as raised:
        fit(pair.model, pair.guide, data, epochs=1, compile=level)
    number = r"(\d+\.\d+)"
    found = re.search(rf"pair is {number}, .* place {number}, .*compile='off'", str(raised.value))
    now, frozen = map(float, found.groups())
    assert now / frozen == pytest.approx(0.9, rel=1e-4)


def test_a_site_that_comes_up_is_named():
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    data = loader(x, partial(setattr, pair, "grown", True), at=5)
    with pytest.raises(StaleGraphError, match="model site 'extra' was absent"):
        fit(pair.model, pair.guide, data, epochs=1)


def test_a_short_run_is_looked_at_when_it_ends():
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    with pytest.raises(StaleGraphError):
        fit(pair.model, pair.guide, loader(x, partial(setattr, pair, "weight", 0.9), at=5), epochs=1)


def test_eager_steps_may_follow_a_program_that_changes():
    vae, guide, x = mean_field()
    pair = Scaled(vae, guide)
    data = loader(x, partial(setattr, pair, "weight", 0.9), at=5)
    assert fit(pair.model, pair.guide, data, epochs=1, compile="off").compiled == "off"


class OwnSchedule(Trace_ELBO):
    """A schedule that its author keeps in a Python number."""

    weight = 0.5

    def set_epoch(self, epoch: int) -> float:
        self.weight = 0.5 + 0.1 * epoch
        return self.weight

    def final(self) -> Trace_ELBO:
        return Trace_ELBO()

    def final_kl_weight(self) -> float:
        return 1.0

    def tensor_loss(self, model, guide, *args) -> Tensor:
        trace = poutine.trace(guide).get_trace(*args)
        of_model = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*args)
        return self.weight * (trace.log_prob_sum() - of_model.log_prob_sum())

    def differentiable_loss(self, model, guide, *args) -> Tensor:
        return self.tensor_loss(model, guide, *args)


def test_an_objective_that_froze_its_schedule_is_found_at_the_next_epoch():
    model, guide, x = mean_field()
    with pytest.raises(StaleGraphError, match="a Python number of the pair"):
        fit(model, guide, x, objective=OwnSchedule(), epochs=3, batch_size=20)


@pytest.mark.parametrize("program", REPARAMETERIZED)
def test_looking_changes_nothing(program):
    ends = []
    for every in (1, 10**6):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair: PairAndData = REPARAMETERIZED[program]()
        training = Watched(pair, every)
        for start in (0, 13, 26) * 2:
            training.take(torch.arange(start, start + 13))
        assert training.step.level == "trace"
        ends.append((training.losses, state(pair)))
    (looked, with_looks), (alone, without) = ends
    assert looked == alone
    assert all(torch.equal(a, b) for a, b in zip(with_looks, without, strict=True))


class Rounded:
    """A step whose graph gives a loss, or gradients, that are off by a hundredth."""

    def __init__(self, step, loss: bool, gradients: bool) -> None:
        self.step, self.loss, self.gradients = step, 1 + 0.01 * loss, 1 + 0.01 * gradients

    def replay(self, batch: Tensor, beta: Tensor) -> list[Tensor]:
        loss, *gradients = self.step.replay(batch, beta)
        return [self.loss * loss, *(self.gradients * gradient for gradient in gradients)]


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_loss_or_gradients_that_cancel_are_no_cause_for_alarm(loss, gradients):
    """A loss near 0, or such a gradient, has roundings of any relative size; a pair that changed shows in both."""
    training, rows = Watched(mean_field(), every=1000), torch.arange(13)
    training.take(rows)
    alarm = pytest.raises(StaleGraphError, match="the loss of the pair is") if loss and gradients else nullcontext()
    with alarm:
        training.watch.after(Rounded(training.step, loss, gradients), rows, training.beta, now=True)
