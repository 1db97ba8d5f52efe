"""Which level is picked, on what grounds, and that the pick is kept."""

import json
import logging

import pytest
import torch
from fit_programs import bernoulli_latent, binary_rows, lines, loss_of, mean_field, state
from torch.optim import Adam

from pyro_vae import fit
from pyro_vae.fit.run import CHECKPOINT
from pyro_vae.fit.steps.auto_step import AutoStep, make_step
from pyro_vae.runtime.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(autouse=True)
def said(caplog):
    caplog.set_level(logging.INFO, logger="pyro_vae")


class Clock:
    """By which each step takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


class InSteps:
    """A pair that is trained a step at a time, each with noise and rows of its own."""

    def __init__(self, build=mean_field) -> None:
        self.pair = build()
        self.loss = loss_of(self.pair)
        self.optimizer = Adam(self.loss.parameters, lr=1e-3)
        self.clock = Clock(10.0)
        self.taken = 0

    def auto(self, steps: int) -> AutoStep:
        """A step that picks its level, in a run of so many."""
        return AutoStep(self.loss, self.optimizer, steps=steps, clock=self.clock)

    def take(self, step, until: int) -> None:
        """Take the steps up to this number."""
        for number in range(self.taken, until):
            torch.manual_seed(number)
            step(torch.randperm(40)[:10], torch.ones(()))
        step.settle()
        self.taken = until

    def assert_trained_as_traced(self) -> None:
        traced = InSteps()
        traced.take(make_step("trace", traced.loss, traced.optimizer), self.taken)
        for ours, theirs in zip(state(self.pair), state(traced.pair), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def fitted(epochs: int, **settings):
    """A run of four steps an epoch, and its pair."""
    pair = mean_field()
    return pair, fit(pair.model, pair.guide, pair.x, epochs=epochs, batch_size=10, compile="auto", **settings)


def test_a_short_run_stays_traced_and_says_so(caplog):
    _, run = fitted(epochs=8)
    assert run.compiled == "trace"
    (line,) = lines(caplog)
    assert line.startswith("fit: compile='auto' picks 'trace': 11 steps of ")
    assert line.endswith(" ms are left")


@pytest.mark.parametrize(("left", "pick"), [(10, "trace"), (11, "inductor")])
def test_a_run_is_compiled_where_a_fifth_of_what_is_left_is_more_than_a_compile(left, pick, caplog):
    """Steps of 10 s: the compiler takes 20, and the first step, which records, is not counted."""
    training = InSteps()
    step = training.auto(steps=21 + left)
    training.take(step, 20)
    assert (step.pick, step.level) == (None, "trace")
    training.take(step, 21 + left)
    assert (step.pick, step.level) == (pick, pick)
    assert lines(caplog) == [f"fit: compile='auto' picks {pick!r}: {left} steps of 1e+04 ms are left"]
    training.assert_trained_as_traced()


@pytest.mark.parametrize(("seconds", "level"), [(9.0, "inductor"), (10.0, "trace")])
def test_a_compiled_step_that_is_no_faster_is_given_up(seconds, level, caplog):
    training = InSteps()
    step = training.auto(steps=100)
    training.take(step, 21)
    training.clock.seconds = seconds
    training.take(step, 41)
    assert step.level == "inductor"
    training.take(step, 50)
    assert step.level == level
    back = "fit: compile='auto' goes back to 'trace': a step takes 1e+04 ms compiled, 1e+04 ms traced"
    assert lines(caplog)[1:] == ([back] if level == "trace" else [])
    training.assert_trained_as_traced()


def test_what_only_pyro_can_run_is_left_to_it(caplog):
    training = InSteps(bernoulli_latent)
    step = training.auto(steps=100)
    training.take(step, 22)
    assert (step.pick, step.level) == ("off", "off")
    assert "picks 'off'" in lines(caplog)[-1]


def test_data_of_unknown_length_are_traced(caplog):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(binary_rows(40))

    pair = mean_field()
    data = torch.utils.data.DataLoader(Endless(), batch_size=10)
    run = fit(pair.model, pair.guide, data, epochs=6, compile="auto")
    assert run.compiled == "trace"
    assert lines(caplog)[0].startswith("fit: compile='auto' picks 'trace': an unknown number of steps of ")


@pytest.mark.parametrize("stop", [8, 30])
def test_steps_that_are_resumed_end_as_they_would_have(stop, caplog):
    """Stopped before the pick, and while compiled steps are timed; each pick is made once, and where it would be."""
    ends = []
    for stops in ([60], [stop, 60]):
        caplog.clear()
        training, kept = InSteps(), None
        for until in stops:
            step = training.auto(steps=60)
            if kept is not None:
                step.resume(json.loads(kept), training.taken)
            training.take(step, until)
            kept = json.dumps(step.state())
        assert lines(caplog) == [
            "fit: compile='auto' picks 'inductor': 39 steps of 1e+04 ms are left",
            "fit: compile='auto' goes back to 'trace': a step takes 1e+04 ms compiled, 1e+04 ms traced",
        ]
        ends.append(state(training.pair))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(("pick", "seconds"), [("trace", 1e9), ("inductor", 0.0)])
def test_a_pick_is_kept_by_steps_that_would_pick_another(pick, seconds, caplog):
    training = InSteps()
    training.clock.seconds = seconds
    step = training.auto(steps=10**6)
    step.resume({"pick": pick, "seconds": [], "traced_seconds": None}, 21)
    training.take(step, 30)
    assert step.level == pick
    assert lines(caplog) == []


@pytest.mark.parametrize("pick", ["trace", "inductor"])
def test_a_resumed_run_keeps_to_what_was_picked(pick, tmp_path, caplog):
    fitted(epochs=6, out=tmp_path)
    tensors, kept = read_checkpoint(tmp_path / CHECKPOINT)
    assert kept["auto"]["pick"] == "trace"
    kept["auto"]["pick"] = pick
    write_checkpoint(tmp_path / CHECKPOINT, tensors, kept)
    caplog.clear()
    _, run = fitted(epochs=12, out=tmp_path, resume=True)
    assert run.compiled == pick
    assert lines(caplog) == []


def test_a_run_resumed_before_the_pick_picks_where_it_would_have(tmp_path, caplog):
    ends = []
    for epochs in ([10], [2, 10]):
        caplog.clear()
        for last in epochs:
            pair, run = fitted(epochs=last, out=tmp_path / str(len(epochs)), resume=True)
        assert run.compiled == "trace"
        assert lines(caplog)[0].startswith("fit: compile='auto' picks 'trace': 19 steps of ")
        ends.append(state(pair))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
