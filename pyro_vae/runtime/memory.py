"""Errors of a full memory, and how much freed memory the allocator keeps for the next tensor."""

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


KEPT = 30_000_000
"""Bytes; glibc adapts to pieces of up to 32 MiB."""


def keep_freed_memory() -> None:
    """Let glibc keep some 60 MB of freed memory for the next tensor.

    By default glibc returns freed memory beyond a threshold to the system, which then clears the same pages again for
    every call: a third of the time of a small decoder's call. The threshold follows the largest piece that was ever
    freed, so one large tensor raises it. That tensor is never written to and takes no memory. Other allocators are not
    affected.
    """
    torch.empty(KEPT, dtype=torch.uint8)
