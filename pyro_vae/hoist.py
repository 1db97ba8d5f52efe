"""Splits a captured graph into what no noise enters, which is the same for all draws, and the draws themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

Tensors = list[Tensor]


class Draws:
    """A captured function that draws noise: called for one draw, or asked for many draws on the same inputs.

    Args:
        module: the graph; takes the inputs and returns a list of tensors.
        finish: applied to either part, which may overwrite what it alone reads.
    """

    def __init__(self, module: GraphModule, finish: Callable[[GraphModule], GraphModule]) -> None:
        constant = _constant_nodes(module.graph)
        passed_on = [node for node in constant if node.op != "get_attr" and not set(node.users).issubset(constant)]
        self._constants = finish(_part(module, [n for n in module.graph.nodes if n in constant], (), passed_on)).forward
        rest = [n for n in module.graph.nodes if n.op == "get_attr" or (n.op == "call_function" and n not in constant)]
        results = next(iter(reversed(module.graph.nodes))).args[0]
        self._draw = finish(_part(module, rest, passed_on, results)).forward

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return the results of one draw."""
        return self._draw(*self._constants(*inputs))

    def on(self, *inputs: Tensor) -> Callable[[], Tensors]:
        """Return a function that draws anew at each call, and shares what does not depend on the noise."""
        constants = self._constants(*inputs)
        return lambda: self._draw(*constants)


def _part(module: GraphModule, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Any) -> GraphModule:
    """Return a graph of some of the nodes; ``inputs`` are values that it is given."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(torch.fx.map_arg(outputs, copies.__getitem__))
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return GraphModule(module, graph)


def _constant_nodes(graph: Graph) -> dict[Node, None]:
    """Return, in order, the nodes whose value is the same at each draw."""
    inputs = {node: None for node in graph.nodes if node.op == "placeholder"}
    varying: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target._schema.is_mutable:
            target = node.all_input_nodes[0]
            if target.all_input_nodes or target.op != "call_function" or len(target.users) > 1:
                # It writes to what others may read, before or after.
                return inputs
            varying |= {target, node}
        elif torch.Tag.nondeterministic_seeded in node.target.tags:
            varying.add(node)
    constant: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op != "output" and node not in varying and not varying.intersection(node.all_input_nodes):
            constant[node] = None
        else:
            varying.add(node)
    return constant
