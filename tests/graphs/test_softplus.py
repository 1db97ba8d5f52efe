"""Softplus by a series against torch's in double precision, and where graphs take it."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.testing import assert_close

from pyro_vae.graphs.softplus import expand_softplus, softplus

aten = torch.ops.aten


def test_it_is_exact_to_a_few_roundings_everywhere():
    """Relative to the result, over all magnitudes of normal numbers: the tiny ones for very negative x too."""
    x = torch.cat(
        [torch.linspace(-86, 86, 400_001), torch.logspace(-30, 1.9, 10_000), -torch.logspace(-30, 1.9, 10_000)]
    )
    exact = functional.softplus(x.double(), threshold=1000)
    exact = torch.where(x < -30, x.double().exp(), exact)
    found = softplus(x)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() / exact).max() < 4 * torch.finfo(torch.float32).eps


def test_limits():
    found = softplus(torch.tensor([-torch.inf, torch.inf, torch.nan, -1e30, 1e30]))
    assert_close(found, torch.tensor([0.0, torch.inf, torch.nan, 0.0, 1e30]), equal_nan=True)


def operations(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_a_graphs_softplus_is_rewritten_for_float32_alone():
    def function(x):
        return [functional.softplus(x.sin()).sum(-1) + functional.softplus(x.cos()).sum(-1)]

    x = torch.randn(3, 5)
    graph = expand_softplus(make_fx(function)(x))
    assert aten.softplus.default not in operations(graph)
    assert_close(graph(x), function(x))
    graph = expand_softplus(make_fx(function)(x.double()))
    assert operations(graph).count(aten.softplus.default) == 2


def test_one_of_another_slope_or_threshold_stays():
    graph = expand_softplus(make_fx(lambda x: [functional.softplus(x, beta=2.0, threshold=3.0)])(torch.randn(4)))
    assert operations(graph) == [aten.softplus.default]
