"""What an optimizer and a scheduler remember, in tensors and in JSON's terms."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named ``INDEX.KEY``, and the JSON-able rest."""
    full = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for index, entries in full["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{index}.{key}"] = value
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    groups = [{k: float(v) if isinstance(v, Tensor) else v for k, v in g.items()} for g in full["param_groups"]]
    return tensors, {"groups": groups, "rest": rest}


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Undo :func:`optimizer_state`."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**state["rest"], **tensors}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else value
    groups = [dict(group) for group in state["groups"]]
    for group, current in zip(groups, optimizer.param_groups, strict=True):
        # A learning rate that is a tensor is rounded like one.
        group |= {key: value.new_tensor(group[key]) for key, value in current.items() if isinstance(value, Tensor)}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def plain(value: Any) -> Any:
    """Return a scheduler's state in JSON's terms; dicts with keys other than strings become lists of pairs.

    >>> restored(plain({"milestones": {30: 1}, "last_epoch": 3}))
    {'milestones': {30: 1}, 'last_epoch': 3}
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: plain(item) for key, item in value.items()}
        return {"__pairs__": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def restored(value: Any) -> Any:
    """Undo :func:`plain`."""
    if isinstance(value, dict):
        if value.keys() == {"__pairs__"}:
            return {restored(key): restored(item) for key, item in value["__pairs__"]}
        return {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value
