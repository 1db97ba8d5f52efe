"""The batches that all sides of a training benchmark draw, as row numbers or as images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vae.fit.batches import TensorBatches


class NumberedBatches(TensorBatches):
    """The batches of ``pyro_vae.fit``, also for those that take images, or index their own copy of the data.

    Args:
        pixels: the data, ``(N, x_dim)``.
        batch_size: rows a batch.
    """

    def __init__(self, pixels: Tensor, batch_size: int) -> None:
        super().__init__(pixels, batch_size, 0, torch.device("cpu"), torch.float32)
        self.pixels = pixels
        self.batch_size = batch_size

    def images(self, index: int) -> Iterator[Tensor]:
        """Yield the images of each batch of an epoch, ``(batch_size, x_dim)``."""
        return map(self.observe, self.epoch(index))

    def numbers(self, index: int) -> Tensor:
        """Return which rows each batch of an epoch takes, ``(steps, batch_size)``."""
        return torch.stack(list(self.epoch(index)))
