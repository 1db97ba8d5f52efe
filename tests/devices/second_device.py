"""A second device for tests: ``"second"``, whose tensors lie on the CPU, and which does not mix with the CPU's.

As on CUDA, but for numbers: a tensor without dims may come from the CPU into every operation here, there into most. It
shows what no GPU is needed for: whether all tensors of a computation are on one device, whether values are the CPU's,
and how often one is read back. To use it registers it for the whole process, so that its tests have one of their own.
Random numbers are those of the CPU's generator. Graphs cannot be captured there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "second"
aten = torch.ops.aten

MOVES = {aten.copy_.default, aten._to_copy.default}
"""What may take tensors of both devices."""

INDEXES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
"""What may take indices on the CPU, its second argument, into a tensor that is elsewhere. Not the other way round."""

WAITED_FOR = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default,
    aten._unique2.default,
}  # fmt: skip
"""What a device has to be waited for in: a value, or a size, is the result."""


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both devices."""


class Backend(backend_registration._DummyBackendModule):
    def get_rng_state(self, _: int = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, _: int = 0) -> None:
        torch.set_rng_state(state)


class Elsewhere(torch.Tensor):
    """A tensor on the second device; ``here`` is where its values are."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        found = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        found.here = here
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.here})"


class Reads:
    """How often a value or a size was read back to Python, and how often a tensor was copied to the CPU."""

    values = 0
    copies = 0


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the CPU, for tensors that are elsewhere, or to make one there."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    elsewhere = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
    indexed = func in INDEXES and isinstance(args[0], Elsewhere)
    mixed = pytree.tree_leaves((args[0], args[2:])) if indexed else leaves
    cpu = [leaf for leaf in mixed if isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere) and leaf.dim() > 0]
    if elsewhere and cpu and func not in MOVES:
        raise MixedDevicesError(f"{func}: tensors of shapes {[tuple(t.shape) for t in elsewhere]} on {NAME!r}, and of "
                                f"{[tuple(t.shape) for t in cpu]} on the CPU")  # fmt: skip
    if func is aten.copy_.default:
        stays = isinstance(args[0], Elsewhere)
    else:
        asked = kwargs.get("device")
        stays = bool(elsewhere) if asked is None else torch.device(asked).type == NAME
    Reads.values += bool(elsewhere) and func in WAITED_FOR
    Reads.copies += bool(elsewhere) and func in MOVES and not stays
    plain_args, plain_kwargs = pytree.tree_unflatten([_here(leaf) for leaf in leaves], spec)
    found = func(*plain_args, **plain_kwargs)
    if not stays:
        return found
    # What works in place returns the tensor that it was given.
    own = {id(tensor.here): tensor for tensor in elsewhere}
    return pytree.tree_map_only(Tensor, lambda t: own[id(t)] if id(t) in own else Elsewhere(t), found)


def _here(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.here if isinstance(leaf, Elsewhere) else leaf


class Conversions(TorchFunctionMode):
    """Makes ``torch.tensor(..., device="second")`` and ``tolist()`` work: torch has them in C++."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def register() -> None:
    """Make it known to torch, for as long as the process lives."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
    # Modules move by swapping parameters for new ones: these are no plain tensors.
    torch.__future__.set_swap_module_params_on_conversion(True)
    register.library = torch.library.Library("_", "IMPL")
    register.library.fallback(run, dispatch_key="PrivateUse1")
