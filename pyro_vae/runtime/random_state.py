"""Draw from a seed without moving the random number generators that the caller uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vae.runtime.checks import check_seed


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed, and leave the generators of the CPU and of all CUDA devices as they were.

    None draws from the generators as they are, and moves them.

    >>> _ = torch.manual_seed(0)
    >>> with seeded(1):
    ...     first = torch.rand(3)
    >>> rest = torch.rand(3)
    >>> with seeded(1):
    ...     torch.equal(torch.rand(3), first)
    True
    >>> _ = torch.manual_seed(0)
    >>> torch.equal(torch.rand(3), rest)
    True
    """
    if seed is not None:
        check_seed("noise", seed)
    with unmoved_generators(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def unmoved_generators(*, enabled: bool = True) -> Iterator[None]:
    """Put the generators of the CPU and of all CUDA devices back as they were."""
    # All CUDA devices are included, as the model may lie on another one than the current one. Other accelerators are
    # not: torch's default would include them, but some keep no state for each device.
    with torch.random.fork_rng(range(torch.cuda.device_count()), enabled=enabled, device_type="cuda"):
        yield
