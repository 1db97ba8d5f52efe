"""What is kept of importance weights that are drawn and forgotten: their sums, and their tail."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, groupby

import torch
from torch import Tensor

from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.stream import Chunk


class WeightSums:
    """Running sums of the weights of many data, and the k-hat of each.

    Args:
        chunks: all weights; the chunks of a block of data come one after the other.
        size: N, how many data there are.
        most: the most weights that a datum has.
    """

    def __init__(self, chunks: Iterable[Chunk], size: int, most: int) -> None:
        self._tail = tail_length(most) + 1
        self._peak = torch.full((size,), -math.inf, dtype=torch.float64)
        self._first, self._second, self.pareto_k = torch.zeros(3, size, dtype=torch.float64)
        self.num_samples = torch.zeros(size, dtype=torch.int64)
        for where, log_weights in _by_block(chunks):
            self._visit(where, log_weights)

    def _visit(self, where: slice | Tensor, log_weights: Iterable[Tensor]) -> None:
        """Take in all weights of a block of data."""
        samples, largest = 0, torch.empty(0)
        for log_weight in log_weights:
            # Running sums of w and w^2 relative to the largest log-weight so far.
            weights = log_weight.double().cpu()
            top = torch.maximum(self._peak[where], weights.amax(0))
            shift = torch.where(top.isfinite(), top, torch.zeros_like(top))
            scale = (self._peak[where] - shift).exp()
            relative = (weights - shift).exp()
            self._first[where] = self._first[where] * scale + relative.sum(0)
            self._second[where] = self._second[where] * scale.square() + relative.square().sum(0)
            self._peak[where] = top
            seen = torch.cat([largest, log_weight.mT.cpu()], dim=1) if samples else log_weight.mT.cpu()
            largest = seen.topk(min(self._tail, seen.shape[1]), dim=1).values
            samples += len(log_weight)
        self.num_samples[where] = samples
        self.pareto_k[where] = pareto_k(largest[:, : tail_length(samples) + 1], samples)

    @property
    def log_mean(self) -> Tensor:
        """The log of the mean weight, ``(N,)``."""
        shift = torch.where(self._peak.isfinite(), self._peak, torch.zeros_like(self._peak))
        log_samples = torch.tensor([math.log(samples) for samples in self.num_samples.tolist()], dtype=torch.float64)
        return shift + self._first.log() - log_samples

    @property
    def _concentration(self) -> Tensor:
        return self._second / self._first.square()

    @property
    def ess(self) -> Tensor:
        """Effective sample size (sum w)^2 / sum w^2, ``(N,)``."""
        return 1 / self._concentration

    @property
    def standard_errors(self) -> Tensor:
        """Monte Carlo standard error of :attr:`log_mean` to first order, ``(N,)``; NaN for one sample."""
        samples = self.num_samples.double()
        variance = (self._concentration - 1 / samples).clamp(min=0) * samples / (samples - 1).clamp(min=1)
        return torch.where(samples > 1, variance.sqrt(), math.nan)


def _by_block(chunks: Iterable[Chunk]) -> Iterator[tuple[slice | Tensor, Iterator[Tensor]]]:
    """Group chunks by the data they are of."""
    for _, block in groupby(chunks, key=lambda chunk: chunk.block):
        first = next(block)
        yield first.data, (chunk.log_weight for chunk in chain([first], block))
