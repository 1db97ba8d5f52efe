"""Recognise errors of a full memory, and let the allocator keep freed memory for the next tensor."""

import torch

MESSAGES = ("DefaultCPUAllocator", "MPS backend out of memory")
"""Texts in torch's errors of a full memory."""

KEPT = 30_000_000
"""Size in bytes of the tensor that raises glibc's threshold, which follows pieces of up to 32 MiB."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full; on the CPU, torch has no class of its own for this error.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def keep_freed_memory() -> None:
    """Let glibc keep some 60 MB of freed memory for the next tensor.

    By default glibc returns freed memory beyond a threshold to the system, which then clears the same pages again for
    every call: 5000 page faults for five tensors of 4 MB. The threshold follows the largest piece that was ever freed,
    so one large tensor raises it. That tensor is never written to and takes no memory. Other allocators are not
    affected.
    """
    torch.empty(KEPT, dtype=torch.uint8)
