"""The grid of grey levels that quantised images lie on, shared by the likelihoods of such images."""

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.runtime.checks import check_count

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""How far a value in [0, 1] may lie from its level: images are kept in float32, whatever the model computes in."""


class GreyLevels(constraints.Constraint):
    """The values k / (levels - 1), k = 0, ..., levels - 1, within the rounding of a float32.

    Args:
        levels: how many, at least 2.

    >>> GreyLevels(256)
    {k / 255: k = 0, ..., 255}
    >>> GreyLevels(256).check(torch.tensor([0.0, 0.5, 51 / 255, 1.0, 256 / 255]))
    tensor([ True, False,  True,  True, False])
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        """Return which values lie on the grid."""
        nearest = level_of(value, self.levels) / (self.levels - 1)
        return ((value - nearest).abs() <= ROUNDING) & (nearest >= 0) & (nearest <= 1)

    def __repr__(self) -> str:
        return f"{{k / {self.levels - 1}: k = 0, ..., {self.levels - 1}}}"


def level_of(value: Tensor, levels: int) -> Tensor:
    """Return the number k of the level k / (levels - 1) nearest to each value, in the value's dtype.

    >>> level_of(torch.tensor([0.0, 0.2, 1.0]), 256)
    tensor([  0.,  51., 255.])
    """
    return (value * (levels - 1)).round()


def check_levels(who: str, levels: int) -> None:
    """Refuse fewer than two levels, with a ValueError that names the caller ``who``."""
    check_count(who, "levels", levels, 2, " (256 for 8-bit images)")
