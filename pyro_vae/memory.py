"""Telling an allocation that failed from other errors."""

import torch

SAID_BY_TORCH = ("DefaultCPUAllocator", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up; on the CPU torch has no class of its own for it.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in SAID_BY_TORCH)
