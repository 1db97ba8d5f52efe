"""Record the noise of one run and replay it in another, whose shapes may differ."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class RecordedNoise(TorchDispatchMode):
    """Records what every random operation inside it returns, in ``draws``.

    >>> with RecordedNoise() as noise:
    ...     drawn = torch.randn(2, 3)
    >>> torch.equal(noise.draws[0], drawn)
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append(out.detach().clone())
        return out


class ReplayedNoise(TorchDispatchMode):
    """Replaces the noise of random operations inside it by the recorded noise of one sample among several.

    Args:
        draws: the draws of :class:`RecordedNoise`, with the samples in the leftmost dim.
        k: index of the sample.

    Raises:
        ValueError: an operation draws other noise than one sample did.
    """

    def __init__(self, draws: list[Tensor], k: int) -> None:
        super().__init__()
        self._draws, self._k = iter(draws), k

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and replace the noise that it drew by the recorded noise."""
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            drawn = next(self._draws, None)
            if drawn is None or drawn.numel() % max(out.numel(), 1):
                raise ValueError("run alone, a sample asks for other noise")
            several = drawn.reshape(-1, *out.shape)
            out.copy_(several[self._k if len(several) > 1 else 0])
        return out
