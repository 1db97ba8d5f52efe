"""Compiled draws: the graph's noise and numbers, or a reason why not."""

import importlib.util
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.graphs import compiled_draws as module
from pyro_vae.graphs.capture import capture
from pyro_vae.graphs.compiled_draws import AGAIN_SECONDS, FIRST_SECONDS, NEXT_SECONDS, expected_seconds, native_draws
from pyro_vae.graphs.inductor import NotCompilable

A, B = torch.randn(4, 3), torch.randn(4, 3)


@pytest.fixture(autouse=True)
def nothing_compiled_yet(monkeypatch):
    monkeypatch.setattr(module, "_known", set())


def noisy(x):
    return [x.exp() + torch.randn_like(x)]


def run_as_it_is(graph, inputs):
    return graph.forward


def test_the_module_that_tells_whether_the_compiler_is_loaded_exists():
    assert importlib.util.find_spec(module.INDUCTOR) is not None


def test_compiled_draws_equal_the_graphs_under_a_seed_and_read_parameters_where_they_live():
    layer = nn.Linear(3, 2).requires_grad_(False)
    graph = capture(lambda x: [layer(x.tanh() + torch.randn_like(x)).square().sum(-1)], [A], [B], [layer])
    compiled = native_draws(graph, [A], [layer])
    for weight in (1.0, 3.0):
        layer.weight.fill_(weight)
        torch.manual_seed(1)
        draw = graph.on(B)
        expected = [draw()[0].clone(), draw()[0].clone()]
        torch.manual_seed(1)
        draw = compiled.on(B)
        assert_close([draw()[0].clone(), draw()[0].clone()], expected)
        assert not torch.equal(*expected)


def test_inputs_that_vary_are_given_to_each_compiled_draw():
    graph = capture(lambda x, y: [x.exp() * y.tanh(), y.square().sum(-1)], [A, B], [B, A], varying=1)
    compiled = native_draws(graph, [A, B])
    draw = compiled.on(A)
    for y in (B, 2 * B):
        assert_close([*map(torch.clone, draw(y))], graph(A, y))


def test_a_compiled_graph_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(module, "native", lambda graph, _: lambda *values: [1.01 * value for value in graph(*values)])
    with pytest.raises(NotCompilable, match=r"^the compiled graph rounds"):
        native_draws(capture(noisy, [A], [B]), [A])


def test_a_compiled_graph_that_fails_is_refused(monkeypatch):
    def fails(*values):
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(module, "native", lambda *_: fails)
    with pytest.raises(NotCompilable, match="graph fails: RuntimeError: no"):
        native_draws(capture(noisy, [A], [B]), [A])


def test_the_comparison_leaves_random_numbers_and_buffers_alone(monkeypatch):
    monkeypatch.setattr(module, "native", run_as_it_is)
    count = torch.zeros(4, 3)
    owner = nn.Module()
    owner.register_buffer("count", count)

    def counting(x):
        return [count.add_(1) * 0 + torch.randn_like(x)]

    graph = capture(counting, [A], [B], [owner])
    before = torch.get_rng_state()
    native_draws(graph, [A], [owner])
    assert torch.equal(torch.get_rng_state(), before)
    assert count.sum() == 0


def test_what_was_compiled_before_is_expected_to_cost_less(monkeypatch):
    monkeypatch.setattr(module, "native", run_as_it_is)
    graph = capture(noisy, [A], [B])
    monkeypatch.setitem(sys.modules, module.INDUCTOR, None)
    assert expected_seconds(graph) == NEXT_SECONDS
    monkeypatch.delitem(sys.modules, module.INDUCTOR)
    assert expected_seconds(graph) == FIRST_SECONDS
    native_draws(graph, [A])
    assert expected_seconds(capture(noisy, [A], [B])) == AGAIN_SECONDS
    assert expected_seconds(capture(noisy, [A[:2]], [B[:2]])) == FIRST_SECONDS
    assert expected_seconds(capture(lambda x: [x.sin() * torch.randn_like(x)], [A], [B])) == FIRST_SECONDS
