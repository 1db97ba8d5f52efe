"""Split a captured graph into a part without noise, which all draws share, and the part that each draw runs."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.graphs.writes import is_random, is_safe_to_reorder, written

Tensors = list[Tensor]


class Draws:
    """A captured function that draws noise. Call it for one draw; :meth:`on` makes many draws on the same inputs.

    Args:
        module: the graph; takes the inputs and returns a list of tensors.
        varying: how many of the last inputs change from draw to draw, as noise does; :meth:`on` takes the others, and
            what it returns takes these.

    Attributes:
        shared_part: the graph that is run once for many draws.
        drawn_part: the graph that is run anew for each draw.
    """

    def __init__(self, module: GraphModule, varying: int = 0) -> None:
        nodes = list(module.graph.nodes)
        inputs = [node for node in nodes if node.op == "placeholder"]
        self._fixed = len(inputs) - varying
        moving = inputs[self._fixed :]
        constant = _constant_nodes(module.graph, moving)
        shared = set(constant)
        passed_on = [node for node in constant if node.op != "get_attr" and not shared.issuperset(node.users)]
        rest = [node for node in nodes if node.op == "get_attr" or (node.op == "call_function" and node not in shared)]
        self.shared_part = _part(module, constant, (), passed_on)
        self.drawn_part = _part(module, rest, [*moving, *passed_on], nodes[-1].args[0])
        self._draw: Callable[..., Tensors] = self.drawn_part.forward

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return the results of one draw."""
        return self.on(*inputs[: self._fixed])(*inputs[self._fixed :])

    def on(self, *inputs: Tensor) -> Callable[..., Tensors]:
        """Return a function that draws anew at each call, and shares what does not depend on the noise."""
        constants = self.shared_part.forward(*inputs)
        return lambda *moving: self._draw(*moving, *constants)

    def remade(self, remake: Callable[[GraphModule, Tensors], Callable[..., Tensors]], *inputs: Tensor) -> "Draws":
        """Return the same draws, run by ``remake(graph, values)`` of the drawn part and of values for its inputs."""
        other = copy(self)
        fixed, moving = inputs[: self._fixed], inputs[self._fixed :]
        other._draw = remake(self.drawn_part, [*moving, *self.shared_part.forward(*fixed)])
        return other


def _part(module: GraphModule, nodes: Sequence[Node], inputs: Sequence[Node], outputs: Any) -> GraphModule:
    """Return a graph of some nodes, with ``inputs`` as its placeholders."""
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


def _constant_nodes(graph: Graph, moving: Sequence[Node]) -> list[Node]:
    """Return the nodes whose value is the same at each draw, in order; the inputs ``moving`` change."""
    if not is_safe_to_reorder(graph):
        return [node for node in graph.nodes if node.op == "placeholder" and node not in moving]
    varying: set[Node] = set(moving)
    for node in graph.nodes:
        varying.update(written(node))
    constant = []
    for node in graph.nodes:
        if node.op == "output" or node in varying or varying.intersection(node.all_input_nodes) or is_random(node):
            varying.add(node)
        else:
            constant.append(node)
    return constant
