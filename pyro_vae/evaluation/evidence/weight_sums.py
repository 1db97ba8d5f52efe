"""What is kept of importance weights that are drawn and forgotten: their sums, and their tail."""

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.evidence.pareto import largest, pareto_k, tail_length
from pyro_vae.evaluation.over_data.stream import Chunk
from pyro_vae.programs.precision import MOST_ROUNDING, Rounding


class WeightSums:
    """The mean weight of many data, ``log_mean`` with its ``standard_errors``, ``ess`` and ``pareto_k``, each ``(N,)``.

    Args:
        chunks: all weights; the chunks of a block of data come one after the other.
        size: N, how many data there are.
        most: the most weights that a datum has.
        rounding: how large the roundings in log-weights are; None takes some of their dtype.
    """

    def __init__(self, chunks: Iterable[Chunk], size: int, most: int, rounding: Rounding | None = None) -> None:
        self._rounding = rounding
        self.log_mean, self.standard_errors, self.ess, self.pareto_k = torch.zeros(4, size, dtype=torch.float64)
        self.num_samples = torch.zeros(size, dtype=torch.int64)
        self.lost = torch.zeros(size, dtype=torch.bool)
        """Which data's weights are known to no better than 0.1 nats."""
        for _, block in groupby(chunks, key=lambda chunk: chunk.block):
            mean, tail = LogMean(), torch.empty(0)
            for chunk in block:
                data, log_weight = chunk.data, chunk.log_weight
                tail = largest(tail, log_weight, most)
                mean.add(log_weight)
            self._put(data, mean, tail[:, : tail_length(mean.count) + 1])

    def _put(self, data: slice | Tensor, mean: LogMean, tail: Tensor) -> None:
        """Write down what all weights of some data come to."""
        self.log_mean[data], self.standard_errors[data], self.ess[data] = mean.value, mean.standard_error, mean.ess
        self.num_samples[data] = mean.count
        rounding = None if self._rounding is None else self._rounding.of(tail[:, 0], data)
        if rounding is not None:
            self.lost[data] = rounding > MOST_ROUNDING
        self.pareto_k[data] = pareto_k(tail, mean.count, rounding)
