"""Lets the elementwise operations of a captured graph write over what nobody will read again.

A result as large as a batch of images costs more to allocate than to compute: fresh pages, cold cache. Run such a
graph without autograd, which would want the overwritten values.
"""

import torch
from torch.fx import GraphModule, Node

from pyro_vae.graphs.simplify import same_layout
from pyro_vae.graphs.writes import is_safe_to_reorder, written

aten = torch.ops.aten

IN_PLACE = {
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.relu.default: aten.relu_.default,
    aten.exp.default: aten.exp_.default,
    aten.neg.default: aten.neg_.default,
    aten.pow.Tensor_Scalar: aten.pow_.Scalar,
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.addcmul.default: aten.addcmul_.default,
}
COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)
VIEWS = (aten.view.default, aten._unsafe_view.default)


def reuse_memory(module: GraphModule) -> GraphModule:
    """Rewrite the module's graph in place and return the module; the numbers stay, to the last bit."""
    if not is_safe_to_reorder(module.graph):
        return module
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target not in IN_PLACE:
            continue
        if node.target in COMMUTATIVE and not node.kwargs and not _can_hold(node.args[0], node):
            first, second = node.args
            if _can_hold(second, node):
                node.args = (second, first)
        if _can_hold(node.args[0], node):
            node.target = IN_PLACE[node.target]
    module.recompile()
    return module


def _can_hold(operand: object, result: Node) -> bool:
    """Whether the result fits the operand's memory, and nothing but this result needs what is there."""
    if not isinstance(operand, Node) or len(operand.users) > 1 or not same_layout(operand, result):
        return False
    owner = operand
    while owner.target in VIEWS or written(owner):
        owner = owner.all_input_nodes[0]
        if len(owner.users) > 1:
            return False
    return _is_fresh(owner)


def _is_fresh(node: Node) -> bool:
    """Whether the node's value is memory of its own: not an input, a parameter or a view of another value."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is None and node.target not in VIEWS
