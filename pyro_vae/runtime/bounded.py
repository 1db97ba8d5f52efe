"""Limits on memory and time while building the parts that a folder describes, set by its checkpoint's size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pyro_vae.errors import RunError

LEAST_SIZE = 1_000_000
"""How many numbers a part may always have."""

ALLOWANCE = 20
"""A pair may compute this many times as many numbers as its checkpoint and data have."""

LEAST_CALLS, CALLS_A_TENSOR = 2_000, 100
"""Number of calls of torch that a part may always make, and that it may make for each tensor of its checkpoint."""


def require_sizes(value: Any, size: int, where: str) -> None:
    """Refuse a whole number larger than the number of elements in a checkpoint: no layer, loop or table is that long.

    Args:
        value: settings or constructor arguments, lists and mappings of them.
        size: numbers in the checkpoint.
        where: what is being built, for the message.

    Raises:
        RunError: one of the settings is too large.
    """
    if isinstance(value, int) and abs(value) > max(size, LEAST_SIZE):
        raise RunError(f"{where}: {value} is no size of a pair whose checkpoint has {size} numbers.")
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        for item in value.values() if isinstance(value, Mapping) else value:
            require_sizes(item, size, where)


class Bounded(TorchDispatchMode):
    """Limit, inside the block, the memory and the number of calls of torch, by the size of a checkpoint.

    The sizes of a call's results are computed before the call, on the meta device.

    Args:
        tensors: of the checkpoint.
        where: what is being built, for the message.
        others: number of elements of other tensors that exist already, as data.

    Raises:
        RunError: the parts ask for more calls, or for more memory, which is refused before it is allocated.
    """

    def __init__(self, tensors: Sequence[Tensor], where: str, others: int = 0) -> None:
        super().__init__()
        self._where = where
        self._numbers_left = ALLOWANCE * (sum(t.numel() for t in tensors) + others + LEAST_SIZE)
        self._calls_left = LEAST_CALLS + CALLS_A_TENSOR * len(tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make a call, unless it exceeds a limit."""
        self._calls_left -= 1
        if self._calls_left < 0:
            raise RunError(f"{self._where}: its checkpoint is too small for what is built: there is no end of layers.")
        kwargs = kwargs or {}
        if not func._schema.is_mutable:
            self._numbers_left -= self._size(func, args, kwargs)
            if self._numbers_left < 0:
                raise RunError(f"{self._where}: its checkpoint is too small for the sizes that it declares.")
        return func(*args, **kwargs)

    @staticmethod
    def _size(func: Any, args: Any, kwargs: Any) -> int:
        """Return the number of new elements in a call's results; 0 if it depends on values."""
        largest = max((leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), default=0)
        # A generator belongs to one device, and nothing is drawn on the meta device.
        on_meta = {name: None if name == "generator" else value for name, value in kwargs.items()}
        if "device" in on_meta or not largest:
            on_meta["device"] = torch.device("meta")
        args, on_meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, on_meta))
        args = tuple(None if isinstance(value, torch.Generator) else value for value in args)
        try:
            made = func(*args, **on_meta)
        except (NotImplementedError, RuntimeError, TypeError):
            return 0
        # A view of other tensors, however large it looks, takes no memory.
        return sum(
            leaf.numel()
            for leaf in tree_leaves(made)
            if isinstance(leaf, Tensor) and leaf.numel() > largest and leaf.untyped_storage().nbytes() >= leaf.numel()
        )
