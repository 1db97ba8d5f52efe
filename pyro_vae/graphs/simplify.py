"""Drop from a captured graph what costs time and changes no number beyond rounding.

Random draws are neither dropped nor reordered. Three rewrites round differently: the Bernoulli's cross-entropy, a sum
of differences, and a function of an expanded tensor, which is taken before the expansion, where torch may use another
kernel. The others are exact in floating point.
"""

import math
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
ELEMENTWISE = (
    aten.log.default,
    aten.exp.default,
    aten.neg.default,
    aten.pow.Tensor_Scalar,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
)
"""Of one tensor and, at most, numbers."""


def tidy(module: GraphModule) -> GraphModule:
    """Rewrite the module's graph in place and return the module."""
    graph = module.graph
    for node in graph.nodes:
        if node.op == "get_attr":
            # Older torch notes what kind of tensor a node is of all others only.
            node.meta.setdefault("val", operator.attrgetter(node.target)(module))
    if not is_safe_to_reorder(graph):
        return module
    rewrites = (
        _simplify_cross_entropy,
        _drop_identities,
        _compute_before_expanding,
        _subtract_behind_sums,
        _negate_behind_sums,
    )
    for rewrite in rewrites:
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


def _compute_before_expanding(graph: Graph, node: Node) -> None:
    """Write f(expand(x)) as expand(f(x)) for an elementwise f, which then runs over x alone."""
    if node.target not in ELEMENTWISE or len(node.all_input_nodes) != 1:
        return
    expansion, *numbers = node.args
    if not isinstance(expansion, Node) or expansion.target is not aten.expand.default or expansion in numbers:
        return
    if any(user.target not in (*ELEMENTWISE, *SUMS) for user in node.users):
        # A view, a draw like it or a caller would meet other strides.
        return
    source, shape = expansion.args[:2]
    with graph.inserting_before(node):
        value = _call(graph, node.target, source, *numbers, **node.kwargs)
        wide = _call(graph, aten.expand.default, value, shape)
    node.replace_all_uses_with(wide)
    graph.erase_node(node)


def _subtract_behind_sums(graph: Graph, node: Node) -> None:
    """Write sum(-a^2 / b - c) as sum(-a^2 / b) - sum(c), for a number or an expanded log c, which is then not expanded.

    A Gaussian's log-density is such a sum. Other differences stay: where large terms cancel, separate sums would lose
    all digits. A log is never large.
    """
    if node.target is not aten.sum.dim_IntList or len(node.args) != 2 or not node.args[1] or node.kwargs:
        return
    difference: Any = node.all_input_nodes[0]
    while difference.target is aten.sub.Tensor and len(difference.users) == 1 and not difference.kwargs:
        minuend, subtrahend = difference.args
        if not _is_square_over(minuend) or not _same_shape(minuend, difference):
            return
        with graph.inserting_before(node):
            shift = _sum_before_expanding(graph, subtrahend, minuend, node.args[1])
        if shift is None:
            return
        node.replace_input_with(difference, minuend)
        graph.erase_node(difference)
        with graph.inserting_after(node):
            shifted = _call(graph, aten.sub.Tensor, node, shift)
        node.replace_all_uses_with(shifted, delete_user_cb=partial(operator.is_not, shifted))
        difference = minuend


def _sum_before_expanding(graph: Graph, term: object, like: Node, dims: Any) -> Node | float | None:
    """Sum over ``dims`` a number or an expanded log, as if it had the shape of ``like``; None for anything else."""
    shape = like.meta["val"].shape
    if like.meta["val"].numel() == 0 or like.meta["val"].dtype not in (torch.float32, torch.float64) or not shape:
        return None
    dims = [dim - len(shape) if dim >= 0 else dim for dim in dims]
    count = math.prod(shape[dim] for dim in dims)
    if isinstance(term, int | float):
        return term * count
    if not isinstance(term, Node) or term.target is not aten.expand.default or not _same_shape(term, like):
        return None
    source = term.all_input_nodes[0]
    value = source.meta["val"]
    if source.target is not aten.log.default or value.dtype != like.meta["val"].dtype:
        return None
    summed = [dim for dim in dims if -dim <= value.ndim]
    repeats = count // math.prod(value.shape[dim] for dim in summed)
    total = _call(graph, aten.sum.dim_IntList, source, summed) if summed else source
    return _call(graph, aten.mul.Tensor, total, repeats) if repeats > 1 else total


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


def _is_square_over(node: object) -> bool:
    """Whether a node is -a^2 / b, or that with terms subtracted."""
    while isinstance(node, Node) and node.target in (aten.sub.Tensor, aten.div.Tensor, aten.neg.default):
        node = node.args[0]
    return isinstance(node, Node) and node.target is aten.pow.Tensor_Scalar and bool(node.args[1] == 2)


def _same_shape(first: Node, second: Node) -> bool:
    return first.meta["val"].shape == second.meta["val"].shape


def _same_layout(first: Node, second: Node) -> bool:
    """Whether two nodes are tensors of the same shape, strides and dtype."""
    a, b = first.meta.get("val"), second.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
