"""Softplus in multiplications and one exponential, for graphs that are compiled.

A Bernoulli likelihood takes a softplus of every pixel. Torch's exp and log1p are calls to a vector library, and cost a
compiled loop twice what this does; run op by op, it would cost many passes over memory instead.
"""

from copy import deepcopy
from functools import cache

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten

TERMS = 7
"""Of the series; the next one is below 1e-8 of the sum."""


def softplus(x: Tensor) -> Tensor:
    r"""log(1 + exp x) of a float32 tensor, to a few roundings anywhere.

    .. math::
        \log(1 + e^x) = \max(x, 0) + \log(1 + u), \quad u = e^{-|x|}, \qquad
        \log(1 + u) = 2 \operatorname{artanh} s = 2 s \sum_{i \ge 0} \frac{s^{2 i}}{2 i + 1}, \quad
        s = \frac{u}{2 + u} \le \frac{1}{3}

    Args:
        x: of any shape.

    Returns:
        Tensor like x. Torch's is x itself beyond x = 20, which is off by 2e-9.

    >>> softplus(torch.tensor([-5.0, 0.0, 100.0]))
    tensor([6.7153e-03, 6.9315e-01, 1.0000e+02])
    """
    u = (-x.abs()).exp()
    s = u / (u + 2)
    square = s * s
    series = square * (1 / (2 * TERMS - 1)) + 1 / (2 * TERMS - 3)
    for i in range(TERMS - 3, -1, -1):
        series = series * square + 1 / (2 * i + 1)
    return x.clamp(min=0) + 2 * s * series


def expand_softplus(module: GraphModule) -> GraphModule:
    """Return a copy of the graph in which torch's softplus of float32 tensors is :func:`softplus`."""
    module = GraphModule(module, deepcopy(module.graph))
    for node in module.graph.find_nodes(op="call_function", target=aten.softplus.default):
        (x,) = node.all_input_nodes
        value = x.meta.get("val")
        if len(node.args) > 1 or node.kwargs or value is None or value.dtype != torch.float32:
            continue
        steps = _steps()
        with module.graph.inserting_before(node):
            result = module.graph.graph_copy(steps, {next(iter(steps.nodes)): x})
        node.replace_all_uses_with(result)
        module.graph.erase_node(node)
    module.recompile()
    return module


@cache
def _steps() -> Graph:
    return make_fx(softplus)(torch.zeros(1)).graph
