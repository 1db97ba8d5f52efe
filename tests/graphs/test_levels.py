"""At which level terms are drawn, and what is said where that is not the level asked for."""

import logging
import re

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.graphs import levels as term_draws
from pyro_vae.graphs.inductor import NotCompilable
from pyro_vae.graphs.levels import LEVELS, TermDraws, check_level

A, B = torch.randn(4, 3), torch.randn(4, 3)


def noisy(x):
    return [x.exp() + torch.randn_like(x)]


@pytest.fixture
def compiles(monkeypatch):
    """Counts what would be compiled, which runs as a graph here."""
    found = []
    monkeypatch.setattr(term_draws, "native_draws", lambda draws, *_: found.append(draws) or draws)
    return found


@pytest.fixture
def captures(monkeypatch):
    found, real = [], term_draws.capture
    monkeypatch.setattr(term_draws, "capture", lambda *args: found.append(args) or real(*args))
    return found


def make(level, calls=1000, terms=noisy, blocks=((A,), (B,)), vectorizes=True):
    return TermDraws("someone", terms, blocks, [], level, calls, vectorizes)


@pytest.mark.parametrize(("level", "few", "many"), [("off", 0, 0), ("trace", 0, 1), ("auto", 0, 1), ("inductor", 1, 1)])
def test_a_graph_is_captured_where_it_pays_or_is_asked_for(captures, compiles, level, few, many):
    for calls, expected in ((99, few), (100, many)):
        captures.clear()
        compiles.clear()
        make(level, calls)
        assert len(captures) == expected
        assert len(compiles) == (level == "inductor")


@pytest.mark.parametrize(("level", "found"), [("off", "off"), ("trace", "trace"), ("inductor", "inductor")])
def test_what_varies_is_given_to_each_draw_at_every_level(compiles, level, found):
    def shifted(x, y):
        return [x.exp() + y]

    draws = TermDraws("someone", shifted, ((A, B), (B, A)), [], level, 1000, True, varying=1)
    assert draws.level == found
    draw = draws.on(A)
    for y in (B, 2 * B):
        assert_close(draw(y), shifted(A, y))


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_draws_the_same_noise(compiles, level):
    torch.manual_seed(0)
    expected = noisy(B)[0]
    draw = make(level).on(B)
    torch.manual_seed(0)
    assert_close(draw()[0], expected)


def test_auto_compiles_where_a_fifth_of_what_is_left_is_more_than_a_compile(monkeypatch, compiles):
    """Ten seconds: 1001 times 0.05 s, not 999; the first chunk only warms up, the second decides."""
    monkeypatch.setattr(term_draws, "expected_seconds", lambda _: 10.0)
    for times, expected in ((1001, 1), (999, 0)):
        compiles.clear()
        draws = make("auto")
        draws.spent(100.0, times + 1)
        assert not compiles
        draws.spent(0.05, times)
        assert len(compiles) == expected
        draws.spent(100.0, times - 1)
        assert len(compiles) == expected


@pytest.mark.parametrize("level", ["off", "trace", "inductor"])
def test_only_auto_changes_its_mind(compiles, level):
    draws = make(level)
    compiles.clear()
    for _ in range(3):
        draws.spent(1e6, 1000)
    assert not compiles


def test_what_cannot_be_compiled_runs_as_a_graph_with_one_line(monkeypatch, caplog):
    def refuse(*_):
        raise NotCompilable("no C++ compiler works here")

    monkeypatch.setattr(term_draws, "native_draws", refuse)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        draws = make("inductor")
    expected = "someone: the graph is not compiled, which is slower: no C++ compiler works here"
    assert [record.getMessage() for record in caplog.records] == [expected]
    torch.manual_seed(0)
    expected = noisy(B)[0]
    torch.manual_seed(0)
    assert_close(draws.on(B)()[0], expected)


def branching(x):
    return noisy(x) if x.sum() < 1e9 else []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"terms": branching}, r"RuntimeError: .*"),
        ({"blocks": ((A, 3.0), (B, 3.0)), "terms": lambda x, _: noisy(x)}, "an argument is no tensor"),
        ({"vectorizes": False}, "samples of this pair are run one by one"),
    ],
)
def test_what_cannot_be_captured_is_run_as_it_is_with_one_line(caplog, compiles, options, reason):
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        draws = make("inductor", **options)
    (record,) = caplog.records
    assert record.getMessage().startswith("someone: runs without a graph, which is slower: ")
    assert re.fullmatch(reason, record.getMessage().split("slower: ")[1])
    assert not compiles
    draws.spent(1e6, 1000)
    block = options.get("blocks", ((A,), (B,)))[1]
    assert draws.on(*block)()[0].shape == B.shape


def test_a_capture_that_runs_out_of_memory_says_so():
    def greedy(x):
        return [torch.empty(2**58, dtype=torch.uint8)[: len(x)]]

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        make("trace", terms=greedy)


def test_a_level_there_is_none_of_is_refused():
    for level in LEVELS:
        check_level("someone", level)
    with pytest.raises(ValueError, match=r"^someone: compile must"):
        check_level("someone", "jit")
