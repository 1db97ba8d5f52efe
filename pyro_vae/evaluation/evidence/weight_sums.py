"""What is kept of importance weights that are drawn and forgotten: their sums, and their tail."""

from collections.abc import Iterable
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.evidence.pareto import pareto_k, tail_length
from pyro_vae.evaluation.over_data.stream import Chunk
from pyro_vae.programs.precision import MOST_ROUNDING, Rounding


class WeightMean(LogMean):
    """The log of a mean weight with its k-hat, for any number of laws at once.

    Args:
        most: the most weights that a law has.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._tail, self._length = torch.empty(0), tail_length(most) + 1

    def add(self, log_weights: Tensor) -> Self:
        """Take in more, ``(num_samples, *batch)``, and return itself."""
        seen = log_weights.movedim(0, -1).cpu()
        seen = torch.cat([self._tail, seen], -1) if self._tail.numel() else seen
        self._tail = seen.topk(min(self._length, seen.shape[-1]), dim=-1).values
        return super().add(log_weights)

    def khat(self, rounding: Rounding, data: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return the k-hat of each law's weights, and whether roundings may move them by more than 0.1 nats.

        Args:
            rounding: how large the roundings in log-weights are.
            data: which data the last dim of the batch holds.

        Returns:
            Two tensors ``(*batch,)``.
        """
        tail = self._tail[..., : tail_length(self.count) + 1]
        nats = rounding.of(tail[..., 0], data)
        return pareto_k(tail, self.count, nats), nats > MOST_ROUNDING


class WeightSums:
    """The mean weight of many data, ``log_mean`` with its ``standard_errors``, ``ess`` and ``pareto_k``, each ``(N,)``.

    Args:
        chunks: all weights; the chunks of a block of data come one after the other.
        size: N, how many data there are.
        most: the most weights that a datum has.
        rounding: how large the roundings in log-weights are.
    """

    def __init__(self, chunks: Iterable[Chunk], size: int, most: int, rounding: Rounding) -> None:
        self.log_mean, self.standard_errors, self.ess, self.pareto_k = torch.zeros(4, size, dtype=torch.float64)
        self.num_samples = torch.zeros(size, dtype=torch.int64)
        self.lost = torch.zeros(size, dtype=torch.bool)
        """Which data's weights are known to no better than 0.1 nats."""
        for _, block in groupby(chunks, key=lambda chunk: chunk.block):
            mean = WeightMean(most)
            for chunk in block:
                data = chunk.data
                mean.add(chunk.log_weight)
            self.log_mean[data], self.standard_errors[data], self.ess[data] = mean.value, mean.standard_error, mean.ess
            self.num_samples[data] = mean.count
            self.pareto_k[data], self.lost[data] = mean.khat(rounding, data)
