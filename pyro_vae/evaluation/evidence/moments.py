"""Mean and variance of values that come some at a time."""

import torch
from torch import Tensor


class Moments:
    """Mean and variance over samples of several quantities of each datum; the samples are added up and forgotten.

    Sums are kept in float64 about the first value: log-weights are far from 0, and may spread little.

    >>> moments = Moments()
    >>> moments.add(torch.tensor([[[700.0], [701.0]]]))
    >>> moments.add(torch.tensor([[[702.0], [703.0]]]))
    >>> moments.mean, moments.variance
    (tensor([[701.5000]], dtype=torch.float64), tensor([[1.2500]], dtype=torch.float64))
    """

    def __init__(self) -> None:
        self.count = 0
        """Samples so far."""

    def add(self, values: Tensor) -> None:
        """Take in some more samples, ``(quantities, samples, data)``."""
        values = values.double().cpu()
        if self.count == 0:
            self._origin = values[:, 0].nan_to_num(0.0, 0.0, 0.0)
            self._first = self._second = torch.zeros_like(self._origin)
        self.count += values.shape[1]
        about = values - self._origin.unsqueeze(1)
        self._first = self._first + about.sum(1)
        self._second = self._second + about.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, ``(quantities, data)``."""
        return self._origin + self._first / self.count

    @property
    def variance(self) -> Tensor:
        """Mean squared distance of the samples from their mean, ``(quantities, data)``."""
        return (self._second / self.count - (self._first / self.count).square()).clamp(min=0)
