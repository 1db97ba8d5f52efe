"""The last draw of a distribution and its log-density, for laws that score a draw by the noise it was made of."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """A sample with its log-density, and what tells whether the log-density still belongs to it."""

    value: Tensor
    log_prob: Tensor
    version: int | None
    with_gradient: bool

    @classmethod
    def of(cls, value: Tensor, log_prob: Tensor) -> "Drawn":
        """Record a draw that was made just now."""
        return cls(value, log_prob, _version(value), torch.is_grad_enabled())

    def is_same(self, value: Tensor) -> bool:
        """Whether a tensor is this draw itself, not changed in place since."""
        return self.value is value and self.version == _version(value)

    def scores(self, value: Tensor) -> bool:
        """Whether a tensor is this draw, and the log-density has a gradient if gradients are enabled now."""
        return self.is_same(value) and (self.with_gradient or not torch.is_grad_enabled())


def _version(value: Tensor) -> int | None:
    """Return the number of in-place changes; None in inference mode, which does not count them."""
    return None if value.is_inference() else value._version
