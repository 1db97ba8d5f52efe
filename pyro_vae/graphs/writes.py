"""Which calls of a captured graph write into tensors that they are given, and which draw noise."""

import torch
from torch.fx import Graph, Node


def written(node: Node) -> list[Node]:
    """Return the arguments that a call writes into, by its schema."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    targets = []
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
            values = value if isinstance(value, list | tuple) else [value]
            targets += [item for item in values if isinstance(item, Node)]
    return targets


def is_random(node: Node) -> bool:
    """Whether a call draws noise."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _writes_unseen(node: Node) -> bool:
    """Whether a call may write, or have another effect, without its schema saying so."""
    if node.op != "call_function" or getattr(node.target, "__module__", None) in ("_operator", "operator"):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return True
    # Running statistics are updated behind the schema's back.
    return "batch_norm" in node.target._schema.name and "backward" not in node.target._schema.name


def is_safe_to_reorder(graph: Graph) -> bool:
    """Whether calls write into memory made for them alone, such as noise, and never into what another call reads."""
    for node in graph.nodes:
        if _writes_unseen(node):
            return False
        if not all(_is_private(target) for target in written(node)):
            return False
    return True


def _is_private(node: Node) -> bool:
    """Whether a single call uses a node, and the node is new memory, or new memory that another call wrote into."""
    if node.op != "call_function" or len(node.users) > 1 or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target._schema.name.startswith(("aten::empty", "aten::new_empty")):
        return True
    return bool(written(node)) and all(_is_private(target) for target in written(node))
