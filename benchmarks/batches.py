"""The batches that all sides of a training benchmark draw, for those also that index their own copy of the data."""

import torch
from torch import Tensor

from pyro_vae.fit.batches import TensorBatches


class NumberedBatches(TensorBatches):
    """The batches of ``pyro_vae.fit``, which can also be had as row numbers.

    Args:
        pixels: the data, ``(N, x_dim)``.
        batch_size: rows a batch.
    """

    def __init__(self, pixels: Tensor, batch_size: int) -> None:
        super().__init__(pixels, batch_size, 0, torch.device("cpu"), torch.float32)
        self.pixels = pixels
        self.batch_size = batch_size
        # The order depends on the seed, the epoch and the number of rows alone: numbers are shuffled as pixels are.
        self._numbers = TensorBatches(torch.arange(len(pixels)), batch_size, 0, torch.device("cpu"), torch.float32)

    def numbers(self, index: int) -> Tensor:
        """Return which rows each batch of an epoch takes, ``(steps, batch_size)``."""
        return torch.stack(list(self._numbers.epoch(index)))
