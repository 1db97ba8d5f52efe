"""The inverse of an increasing function, for output biases that have no closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 64
"""Enough for an interval of any length in use to shrink to the rounding of a float64."""


def invert_increasing(function: Callable[[Tensor], Tensor], target: Tensor, low: float, high: float) -> Tensor:
    """Solve ``function(x) = target`` for an elementwise increasing function, in float64.

    Args:
        function: from any shape to the same shape.
        target: any shape.
        low: where the function is below every target.
        high: where it is above.

    >>> invert_increasing(torch.exp, torch.tensor([1.0]), -9.0, 9.0).abs() < 1e-15
    tensor([True])
    """
    target = target.double()
    below, above = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        too_low = function(middle) < target
        below, above = torch.where(too_low, middle, below), torch.where(too_low, above, middle)
    return (below + above) / 2
