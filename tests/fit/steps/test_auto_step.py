"""Which level is picked, on what grounds, and that the pick is kept."""

import logging

import pytest
import torch
from fit_programs import bernoulli_latent, binary_rows, lines, mean_field, state

from pyro_vae import fit
from pyro_vae.fit.run import CHECKPOINT
from pyro_vae.fit.steps import auto_step
from pyro_vae.runtime.checkpoint import read_checkpoint


@pytest.fixture(autouse=True)
def few_steps_are_timed(monkeypatch, caplog):
    monkeypatch.setattr(auto_step, "TIMED", 3)
    caplog.set_level(logging.INFO, logger="pyro_vae")


def fitted(epochs: int = 3, build=mean_field, **settings):
    pair = build()
    return pair, fit(pair.model, pair.guide, pair.x, epochs=epochs, batch_size=10, compile="auto", **settings)


def test_a_short_run_stays_traced_and_says_so(caplog):
    _, run = fitted()
    assert run.compiled == "trace"
    (line,) = lines(caplog)
    assert line.startswith("fit: compile='auto' picks 'trace': 8 steps of ")
    assert line.endswith(" ms are left")


def test_a_long_run_is_compiled_once_the_first_steps_are_timed(caplog, monkeypatch):
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(auto_step.AutoStep, "_keep_if_faster", lambda self, *_: setattr(self, "_traced_seconds", None))
    pair, run = fitted(epochs=4)
    assert run.compiled == "inductor"
    assert lines(caplog)[0].startswith("fit: compile='auto' picks 'inductor': 12 steps of ")
    traced = mean_field()
    fit(traced.model, traced.guide, traced.x, epochs=4, batch_size=10)
    for ours, theirs in zip(state(pair), state(traced), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_compiled_step_that_is_no_faster_is_given_up(caplog, monkeypatch):
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", 0.0)
    real = auto_step.AutoStep._keep_if_faster
    monkeypatch.setattr(auto_step.AutoStep, "_keep_if_faster", lambda self, *_: real(self, 0.002, 0.001))
    pair, run = fitted(epochs=4)
    assert run.compiled == "trace"
    assert lines(caplog)[1] == "fit: compile='auto' goes back to 'trace': a step takes 2 ms compiled, 1 ms traced"
    traced = mean_field()
    fit(traced.model, traced.guide, traced.x, epochs=4, batch_size=10)
    for ours, theirs in zip(state(pair), state(traced), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_only_pyro_can_run_is_left_to_it(caplog, monkeypatch):
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", 0.0)
    _, run = fitted(build=bernoulli_latent)
    assert run.compiled == "off"
    assert "picks 'off'" in lines(caplog)[-1]


def test_data_of_unknown_length_are_traced(caplog):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(binary_rows(40))

    pair = mean_field()
    data = torch.utils.data.DataLoader(Endless(), batch_size=10)
    run = fit(pair.model, pair.guide, data, epochs=2, compile="auto")
    assert run.compiled == "trace"
    assert lines(caplog)[0].startswith("fit: compile='auto' picks 'trace': an unknown number of steps of ")


@pytest.mark.parametrize(("worth", "pick"), [(1e9, "trace"), (0.0, "inductor")])
def test_a_resumed_run_keeps_to_what_was_picked(worth, pick, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", worth)
    monkeypatch.setattr(auto_step.AutoStep, "_keep_if_faster", lambda self, *_: setattr(self, "_traced_seconds", None))
    fitted(epochs=2, out=tmp_path)
    _, kept = read_checkpoint(tmp_path / CHECKPOINT)
    assert kept["auto"]["pick"] == pick
    caplog.clear()
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", 1e9 - worth)
    _, run = fitted(epochs=4, out=tmp_path, resume=True)
    assert run.compiled == pick
    assert lines(caplog) == []


def test_a_run_resumed_before_the_pick_picks_where_it_would_have(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(auto_step, "TIMED", 10)
    monkeypatch.setattr(auto_step, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(auto_step.AutoStep, "_keep_if_faster", lambda self, *_: setattr(self, "_traced_seconds", None))
    ends = []
    for epochs in ([6], [2, 6]):
        caplog.clear()
        for last in epochs:
            pair, run = fitted(epochs=last, out=tmp_path / str(len(epochs)), resume=True)
        assert run.compiled == "inductor"
        assert lines(caplog)[0].startswith("fit: compile='auto' picks 'inductor': 13 steps of ")
        ends.append(state(pair))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
