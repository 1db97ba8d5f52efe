"""The last draw of a distribution and its log-density, for laws that score their draws by the noise behind them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """A sample, its log-density, and what else must hold for the one to belong to the other."""

    value: Tensor
    log_prob: Tensor
    version: int | None
    with_gradient: bool

    @classmethod
    def of(cls, value: Tensor, log_prob: Tensor) -> "Drawn":
        """Return the record of a draw that was made just now."""
        return cls(value, log_prob, _version(value), torch.is_grad_enabled())

    def is_same(self, value: Tensor) -> bool:
        """Whether a tensor is the very draw, unchanged."""
        return self.value is value and self.version == _version(value)

    def scores(self, value: Tensor) -> bool:
        """Whether a tensor is the draw, and its log-density has the gradient that is asked for now."""
        return self.is_same(value) and (self.with_gradient or not torch.is_grad_enabled())


def _version(value: Tensor) -> int | None:
    """Return the count of in-place changes, which inference mode does not keep."""
    return None if value.is_inference() else value._version
