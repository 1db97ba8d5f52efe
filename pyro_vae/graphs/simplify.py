"""Drop from a captured graph what costs time and changes no number beyond rounding.

Random draws are neither dropped nor reordered. The Bernoulli's cross-entropy rounds differently; the other rewrites are
exact in floating point.
"""

import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.graphs.writes import is_random, is_safe_to_reorder

aten = torch.ops.aten

SHAPE_ONLY = (aten.view.default, aten.expand.default)
SUMS = (aten.sum.dim_IntList, aten.sum.default)


def tidy(module: GraphModule) -> GraphModule:
    """Rewrite the module's graph in place and return the module."""
    graph = module.graph
    for node in graph.nodes:
        if node.op == "get_attr":
            # Older torch notes what kind of tensor a node is of all others only.
            node.meta.setdefault("val", operator.attrgetter(node.target)(module))
    if not is_safe_to_reorder(graph):
        return module
    for rewrite in (_simplify_cross_entropy, _drop_identities, _negate_behind_sums):
        for node in list(graph.nodes):
            if node.op == "call_function":
                rewrite(graph, node)
    graph.eliminate_dead_code(lambda node: node.is_impure() or is_random(node))
    module.recompile()
    return module


def _simplify_cross_entropy(graph: Graph, node: Node) -> None:
    """Write cross-entropy with logits x and targets t as softplus(x) - t x: two passes over x where torch takes six.

    For float32 only: torch's softplus(x) is x beyond x = 20, which is off by 2e-9. Both forms cancel for pixels that
    are well predicted, torch's where t = 0, this one where t = 1; the error is that of rounding x itself. With
    infinite logits, either form can be NaN.
    """
    if node.target is not aten.binary_cross_entropy_with_logits.default:
        return
    if node.args[2:] != (None, None, 0) or node.kwargs:
        # Weighted, or summed or averaged.
        return
    logits, targets = node.all_input_nodes[0], node.all_input_nodes[-1]
    if any(tensor.meta["val"].dtype != torch.float32 for tensor in (logits, targets)):
        return
    with graph.inserting_before(node):
        softplus = _call(graph, aten.softplus.default, logits)
        entropy = _call(graph, aten.addcmul.default, softplus, targets, logits, value=-1)
    node.replace_all_uses_with(entropy)
    graph.erase_node(node)


def _drop_identities(graph: Graph, node: Node) -> None:
    """Replace x.alias(), x.view(x.shape) and x.t().t() by x."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return
    if node.target is aten.alias.default or (node.target in SHAPE_ONLY and _same_layout(node, source)):
        same = source
    elif node.target is aten.t.default and source.target is aten.t.default:
        same = source.all_input_nodes[0]
    else:
        return
    node.replace_all_uses_with(same)
    graph.erase_node(node)


def _negate_behind_sums(graph: Graph, node: Node) -> None:
    """Write the sum of -x, of a view of it or of -x / y as minus the sum without it: fewer elements are negated."""
    if node.target not in SUMS:
        return
    negation = node.all_input_nodes[0]
    while negation.target in (aten.view.default, aten.div.Tensor) and len(negation.users) == 1:
        numerator, other = negation.args
        if not isinstance(numerator, Node) or numerator is other:
            return
        negation = numerator
    if negation.target is not aten.neg.default or len(negation.users) != 1:
        return
    if not negation.meta["val"].is_floating_point() or not _same_layout(negation, negation.all_input_nodes[0]):
        return
    negation.replace_all_uses_with(negation.all_input_nodes[0])
    graph.erase_node(negation)
    with graph.inserting_after(node):
        negative = _call(graph, aten.neg.default, node)
    node.replace_all_uses_with(negative, delete_user_cb=partial(operator.is_not, negative))


def _call(graph: Graph, target: Any, *args: Any, **kwargs: Any) -> Node:
    """Insert a call, and note shape, strides and dtype of what it returns, as the capture did for the other nodes."""
    node = graph.call_function(target, args, kwargs)
    values = (_without_data(arg.meta["val"]) if isinstance(arg, Node) else arg for arg in args)
    node.meta["val"] = target(*values, **kwargs)
    return node


def _without_data(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _same_layout(first: Node, second: Node) -> bool:
    """Whether two nodes are tensors of the same shape, strides and dtype."""
    a, b = first.meta.get("val"), second.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
