"""Drops from a captured graph what costs time and changes no number beyond rounding.

Random draws are neither dropped nor reordered. Two rewrites round differently: the Bernoulli's cross-entropy, and a
function of an expanded tensor, which is taken before the expansion, where torch may use another kernel. The others
are exact in floating point.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

SHAPE_ONLY = (aten.view.default, aten.expand.default)
UNARY = (aten.log.default, aten.exp.default, aten.neg.default, aten.pow.Tensor_Scalar)


def tidy(module: GraphModule) -> GraphModule:
    """Rewrite the module's graph in place and return the module."""
    graph = module.graph
    for rewrite in (_simplify_cross_entropy, _drop_identities, _negate_sums, _compute_before_expanding):
        for node in list(graph.nodes):
            if node.op == "call_function":
                rewrite(graph, node)
    _drop_unused(graph)
    module.recompile()
    return module


def _simplify_cross_entropy(graph: Graph, node: Node) -> None:
    """Cross-entropy with logits x and targets t is softplus(x) - t x: two passes over x where torch takes six.

    For float32 only: torch's softplus(x) is x beyond x = 20, which is off by 2e-9. Both forms cancel for pixels that
    are well predicted, torch's where t = 0, this one where t = 1; the error is that of rounding x itself.
    """
    if node.target is not aten.binary_cross_entropy_with_logits.default:
        return
    logits, targets, *weights_and_reduction = node.args
    value = node.meta.get("val")
    if any(weights_and_reduction) or not isinstance(value, Tensor) or value.dtype != torch.float32:
        return
    with graph.inserting_before(node):
        softplus = graph.call_function(aten.softplus.default, (logits,))
        entropy = graph.call_function(aten.addcmul.default, (softplus, targets, logits), {"value": -1})
    entropy.meta = dict(node.meta)
    node.replace_all_uses_with(entropy)
    graph.erase_node(node)


def _drop_identities(graph: Graph, node: Node) -> None:
    """x.alias(), x.view(x.shape) and x.t().t() are x."""
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


def _negate_sums(graph: Graph, node: Node) -> None:
    """The sum of -x, or of a view of it, is minus the sum of x: one negation of few elements, not of all."""
    if node.target not in (aten.sum.dim_IntList, aten.sum.default):
        return
    negation = node.all_input_nodes[0]
    while negation.target is aten.view.default and len(negation.users) == 1:
        negation = negation.all_input_nodes[0]
    if negation.target is not aten.neg.default or len(negation.users) != 1:
        return
    negation.replace_all_uses_with(negation.all_input_nodes[0])
    graph.erase_node(negation)
    with graph.inserting_after(node):
        negative = graph.call_function(aten.neg.default, (node,))
    negative.meta = dict(node.meta)
    node.replace_all_uses_with(negative, delete_user_cb=lambda user: user is not negative)


def _compute_before_expanding(graph: Graph, node: Node) -> None:
    """f(expand(x)) is expand(f(x)) for an elementwise f, which then runs over x alone."""
    expansion = node.args[0] if node.target in UNARY else None
    if not isinstance(expansion, Node) or expansion.target is not aten.expand.default:
        return
    source, shape = expansion.args[:2]
    with graph.inserting_before(node):
        value = graph.call_function(node.target, (source, *node.args[1:]))  # type: ignore[arg-type]
        wide = graph.call_function(aten.expand.default, (value, shape))
    wide.meta = dict(node.meta)
    node.replace_all_uses_with(wide)
    graph.erase_node(node)


def _drop_unused(graph: Graph) -> None:
    for node in reversed(graph.nodes):
        if node.users or node.op not in ("call_function", "get_attr"):
            continue
        if node.op == "get_attr" or _is_pure(node.target):
            graph.erase_node(node)


def _is_pure(target: Callable[..., object]) -> bool:
    """Whether a call does nothing but return a value: no buffer written, no noise drawn."""
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", "") == "getitem"
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _same_layout(first: Node, second: Node) -> bool:
    a, b = first.meta.get("val"), second.meta.get("val")
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.stride() == b.stride()
