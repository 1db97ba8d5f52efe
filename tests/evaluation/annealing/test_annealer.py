"""All data in pieces: under a row budget, resumed to the bit, at every level, without a trace left behind."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.errors import OutOfMemoryError, RunError, SupportError
from pyro_vae.evaluation.annealing import annealer as annealer_module
from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.annealing.density_path import Path
from pyro_vae.evaluation.annealing.pieces import Record
from pyro_vae.graphs import levels as term_draws
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

SHORT = Annealing(6, 5, 2, "sigmoid", 0.1, (1e-4, 0.5), burn_in=3)


def make(model, x, annealing=SHORT, guide=None, plate=None, max_rows=None, compile="off", simulated=False):
    return Annealer("ais", model, guide, x, annealing, plate, max_rows, compile, simulated)


@pytest.fixture
def vae():
    return VAE((6,), 2, (5,)), torch.randint(0, 2, (11, 6)).float()


@pytest.mark.parametrize(("max_rows", "simulated"), [(1, False), (7, False), (7, True), (20, True)])
def test_no_evaluation_has_more_rows_than_the_budget_and_all_have_as_many(vae, monkeypatch, max_rows, simulated):
    rows, real = [], Path.at

    def counted(self, x, u):
        rows.append(u.shape[:2])
        return real(self, x, u)

    monkeypatch.setattr(Path, "at", counted)
    short = Annealing(2, 5, 1, "linear", 0.1, (1e-4, 0.5), burn_in=1)
    found, _ = make(*vae, short, max_rows=max_rows, simulated=simulated).run(0, False, None)
    assert len(set(rows)) == 1
    assert rows[0].numel() <= max_rows
    assert all((numbers.shape == (5, 11)) for numbers in found.values())
    assert (found["log_weight"] != 0).all()
    assert len(found["log_weight"].unique()) == 55


def test_what_a_piece_gives_depends_on_its_seed_and_data_alone(linear_gaussian):
    x = linear_gaussian.data(8)
    annealing = Annealing(6, 4, 2, "sigmoid", 0.1, (1e-4, 0.5), burn_in=3)
    found, data = make(linear_gaussian.model, x, annealing, max_rows=8).run(7, False, None)
    changed = x.clone()
    changed[4:] = linear_gaussian.data(4)
    other, _ = make(linear_gaussian.model, changed, annealing, max_rows=8).run(7, False, None)
    assert_close(found["log_weight"][:, :4], other["log_weight"][:, :4], rtol=0, atol=0)
    assert (found["log_weight"][:, 4:] != other["log_weight"][:, 4:]).all()
    assert data is x


class StoppedError(Exception):
    pass


def stop_after(count, monkeypatch):
    """As a killed process would: between the writing of one piece and the next."""
    real, puts = Record.put, []

    def put(self, *args):
        if len(puts) == count:
            raise StoppedError
        puts.append(args)
        real(self, *args)

    monkeypatch.setattr(Record, "put", put)
    return puts


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("seed", [5, None])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(vae, tmp_path, monkeypatch, simulated, seed):
    file = tmp_path / "ais"
    make_it = partial(make, *vae, max_rows=15, simulated=simulated)
    torch.manual_seed(1)
    whole, data = make_it().run(seed, False, tmp_path / "whole")
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(StoppedError):
            make_it().run(seed, False, file)
    with monkeypatch.context() as patch:
        puts = stop_after(100, patch)
        rest, same_data = make_it().run(seed, False, file)
        assert len(puts) == 4 - 2
    for name, numbers in whole.items():
        assert_close(rest[name], numbers, rtol=0, atol=0, equal_nan=True)
    assert_close(same_data, data, rtol=0, atol=0)
    # What is finished is only read.
    monkeypatch.setattr(annealer_module, "TermDraws", None)
    again, _ = make_it().run(seed, False, file)
    assert_close(again["log_weight"], whole["log_weight"], rtol=0, atol=0)


def test_a_file_of_other_data_parameters_or_settings_is_refused(vae, tmp_path):
    model, x = vae
    file = tmp_path / "ais"
    make(model, x).run(0, False, file)
    longer = Annealing(7, 5, 2, "sigmoid", 0.1, (1e-4, 0.5), burn_in=3)
    for other, message in (
        (make(model, x, longer), "num_temperatures: was 6, is 7"),
        (make(model, 1 - x), "data: was"),
        (make(VAE((6,), 2, (5,)), x), "parameters: was"),
        (make(model, x, guide=MeanFieldGuide((6,), 2, (5,))), "start: was 'prior', is 'guide'"),
        (make(model, x, max_rows=5), r"rows: was \[5, 11\], is \[5, 1\]"),
    ):
        with pytest.raises(RunError, match=f"other settings; .*{message}"):
            other.run(0, False, file)


def test_a_resumed_run_stays_at_the_level_that_auto_chose(vae, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(term_draws, "native_draws", lambda draws, *_: compiled.append(draws) or draws)
    longer = Annealing(11, 5, 2, "sigmoid", 0.1, (1e-4, 0.5), burn_in=3)
    for seconds, count in ((0.0, 1), (1e9, 0)):
        file = tmp_path / f"{count}"
        monkeypatch.setattr(term_draws, "expected_seconds", lambda _, seconds=seconds: seconds)
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            with pytest.raises(StoppedError):
                make(*vae, longer, max_rows=15, compile="auto").run(0, False, file)
        assert len(compiled) == count
        compiled.clear()
        monkeypatch.setattr(term_draws, "expected_seconds", lambda _, seconds=seconds: 1e9 - seconds)
        make(*vae, longer, max_rows=15, compile="auto").run(0, False, file)
        assert len(compiled) == count
        compiled.clear()


@pytest.mark.parametrize("level", ["trace", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("guided", [False, True])
def test_the_graph_and_pyro_give_the_same_weights(vae, guided, level):
    """Over three temperatures, in which no trajectory amplifies a rounding by much."""
    guide = MeanFieldGuide((6,), 2, (5,)) if guided else None
    few = Annealing(3, 5, 25, "linear", 0.05, (1e-4, 0.5), burn_in=0)
    found = [make(*vae, few, guide, compile=how, max_rows=15).run(0, False, None)[0] for how in ("off", level)]
    assert_close(found[0]["log_weight"], found[1]["log_weight"], rtol=1e-3, atol=1e-3)


def test_modes_gradients_and_the_global_generator_are_left_as_they_were(vae):
    model, x = vae
    model.train()
    for parameter in model.parameters():
        parameter.grad = None
    before = torch.get_rng_state()
    make(model, x).run(0, False, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    make(model, x).run(None, False, None)
    assert not torch.equal(torch.get_rng_state(), before)


def test_dropout_is_off_while_chains_move(vae):
    model, x = vae
    model.likelihood.decoder.layers.append(torch.nn.Dropout(0.9))
    found = [make(model.train(), x).run(0, False, None)[0]["log_weight"] for _ in range(2)]
    assert_close(found[0], found[1], rtol=0, atol=0)


def test_too_many_rows_for_the_memory_are_said_to_be(vae, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    annealer = make(*vae, max_rows=15)
    monkeypatch.setattr(Path, "at", full)
    with pytest.raises(OutOfMemoryError, match="out of memory with 15 rows"):
        annealer.run(0, False, None)


def test_a_progress_bar_counts_transitions(vae, capsys):
    make(*vae, max_rows=15, simulated=True).run(0, True, None)
    err = capsys.readouterr().err
    assert "ais" in err
    assert f"{4 * (3 + 5 + 5)}/{4 * (3 + 5 + 5)}" in err


def test_bad_input_is_refused(vae):
    model, x = vae
    with pytest.raises(ValueError, match=r"^ais: max_rows must be at least"):
        make(model, x, max_rows=0)
    with pytest.raises(ValueError, match=r"^ais: compile must"):
        make(model, x, compile="jit")
    with pytest.raises(ValueError, match=r"^ais: x must be a tensor"):
        make(model, [1.0])
    with pytest.raises(ValueError, match=r"^ais: x: there are none"):
        make(model, x[:0])
    with pytest.raises(ValueError, match=r"^ais: x: 1 value is NaN"):
        make(model, torch.where(torch.arange(66).reshape(11, 6) == 3, torch.nan, x))
    with pytest.raises(SupportError, match="outside"):
        make(model, x + 2)
    with pytest.raises(ValueError, match="shape"):
        make(model, torch.zeros(11, 7))
