"""The logarithm of a mean of weights that are known by their logarithms, and come some at a time."""

import math
from typing import Self

import torch
from torch import Tensor


class LogMean:
    r"""log of the mean of w over samples, with its standard error to first order, for any number of laws at once.

    .. math:: \log \bar w, \qquad \mathrm{s.e.} \approx \frac{\mathrm{sd}(w)}{\sqrt{K} \, \bar w}

    Sums of w and w^2 are kept in float64, relative to the largest weight so far, and the weights forgotten.

    >>> found = LogMean.of(torch.tensor([[0.0], [0.0]])).add(torch.tensor([[0.0]]))
    >>> found.value.item(), found.standard_error.item(), found.ess.item()
    (0.0, 0.0, 3.0)
    """

    def __init__(self) -> None:
        self.count = 0
        """K, weights of each law so far."""

    @classmethod
    def of(cls, log_weights: Tensor) -> Self:
        """Return that of weights ``(num_samples, *batch)``."""
        return cls().add(log_weights)

    def add(self, log_weights: Tensor) -> Self:
        """Take in more, ``(num_samples, *batch)``, and return itself."""
        weights = log_weights.double().cpu()
        if self.count == 0:
            self._peak = torch.full_like(weights[0], -math.inf)
            self._first = self._second = torch.zeros_like(weights[0])
        self.count += len(weights)
        top = torch.maximum(self._peak, weights.amax(0))
        shift = torch.where(top.isfinite(), top, torch.zeros_like(top))
        scale = (self._peak - shift).exp()
        relative = (weights - shift).exp()
        self._first = self._first * scale + relative.sum(0)
        self._second = self._second * scale.square() + relative.square().sum(0)
        self._peak = top
        return self

    @property
    def value(self) -> Tensor:
        """Log of the mean weight, ``(*batch,)``; NaN where a weight was."""
        shift = torch.where(self._peak.isfinite(), self._peak, torch.zeros_like(self._peak))
        return shift + self._first.log() - math.log(self.count)

    @property
    def standard_error(self) -> Tensor:
        """Of the value, by the delta method, ``(*batch,)``; NaN for one sample."""
        if self.count == 1:
            return torch.full_like(self._first, math.nan)
        variance = (1 / self.ess - 1 / self.count).clamp(min=0) * self.count / (self.count - 1)
        return variance.sqrt()

    @property
    def ess(self) -> Tensor:
        """Effective sample size (sum w)^2 / sum w^2, ``(*batch,)``."""
        return self._first.square() / self._second
