"""Where a training loop's rows come from: tensors in memory, or any DataLoader."""

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data import ImageData
from pyro_vae.seeded import unmoved_generators


class Batches(Protocol):
    """Batches of training data, epoch by epoch, and how they become the model's input.

    A batch is a tensor as long as the rows that it stands for: their indices, or the rows themselves. What is done to
    it in ``observe`` is part of the step, and of its graph.
    """

    steps: int | None
    """Batches an epoch, where that is known."""
    generator: torch.Generator | None
    """A random state of their own that an epoch advances."""

    def epoch(self, index: int) -> Iterator[Tensor]:
        """Yield the batches of one epoch."""

    def observe(self, batch: Tensor) -> Tensor:
        """Return the model's input for a batch."""

    def first(self) -> Tensor:
        """Return a batch, without touching any random state."""

    def describe(self) -> dict[str, Any]:
        """Say what the data are, in YAML's terms."""


class TensorBatches:
    """Shuffled batches of a tensor, or of the training split of an :class:`ImageData`.

    The order depends on the seed and the epoch alone, so that a run can be taken up at any epoch. Rows left over
    by the batch size are dropped, other ones each epoch.

    Args:
        data: ``ImageData``, or a tensor of model inputs ``(N, ...)``.
        batch_size: rows a batch.
        seed: of the order.
        device: where the rows are kept.
        dtype: of the model's input.

    Raises:
        ValueError: no data, values that are not finite, or fewer rows than a batch.
    """

    def __init__(
        self, data: ImageData | Tensor, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        rows = data.train if isinstance(data, ImageData) else data
        if not isinstance(rows, Tensor):
            raise ValueError(f"fit: data must be an ImageData, a tensor or a DataLoader; got {type(rows)}.")
        check_rows("training data", rows)
        if batch_size < 1:
            raise ValueError(f"fit: batch_size must be at least 1; got {batch_size}.")
        if len(rows) < batch_size:
            raise ValueError(
                f"fit: {len(rows)} training data are fewer than one batch of {batch_size}; choose "
                f"batch_size={len(rows)} or less."
            )
        self._data = data
        self._rows = rows.to(device)
        self._batch_size, self._seed, self._dtype = batch_size, seed, dtype
        self.steps: int | None = len(rows) // batch_size
        self.generator: torch.Generator | None = None

    def epoch(self, index: int) -> Iterator[Tensor]:
        """Yield the indices of the rows of each batch of one epoch."""
        seed = np.random.SeedSequence((self._seed, index)).generate_state(1, np.uint64)[0]
        order = torch.randperm(len(self._rows), generator=torch.Generator().manual_seed(int(seed >> np.uint64(1))))
        order = order.to(self._rows.device)
        for step in range(len(self._rows) // self._batch_size):
            yield order[step * self._batch_size : (step + 1) * self._batch_size]

    def observe(self, batch: Tensor) -> Tensor:
        """Return the model's input for rows by their indices: scaled and binarized as the data set says."""
        rows = self._rows.index_select(0, batch)
        x = self._data.observe(rows) if isinstance(self._data, ImageData) else rows
        return x.to(self._dtype) if x.is_floating_point() else x

    def first(self) -> Tensor:
        """Return the indices of the first rows, as many as a batch."""
        return torch.arange(self._batch_size, device=self._rows.device)

    def describe(self) -> dict[str, Any]:
        """Say what the data are."""
        if isinstance(self._data, ImageData):
            return self._data.describe()
        content = self._data.detach().cpu().contiguous()
        digest = hashlib.sha256(content.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        return {"name": "tensor", "shape": list(content.shape), "content_hash": digest}


class LoaderBatches:
    """Batches of a DataLoader, each a tensor or a sequence that starts with one (labels behind it are not used).

    Args:
        loader: any ``torch.utils.data.DataLoader``.
        device: where batches are moved to.
        dtype: of the model's input.
    """

    def __init__(self, loader: DataLoader, device: torch.device, dtype: torch.dtype) -> None:
        self._loader, self._device, self._dtype = loader, device, dtype
        self.generator: torch.Generator | None = loader.generator
        try:
            self.steps: int | None = len(loader)
        except TypeError:
            self.steps = None
        if self.steps == 0:
            raise ValueError("fit: the DataLoader has no batch; lower its batch_size or set drop_last=False.")

    def epoch(self, index: int) -> Iterator[Tensor]:  # noqa: ARG002 (the loader keeps its own order)
        """Yield the rows of one epoch, in the loader's order."""
        for batch in self._loader:
            rows = batch[0] if isinstance(batch, list | tuple) else batch
            if not isinstance(rows, Tensor):
                raise ValueError(
                    f"fit: the DataLoader must yield tensors, or sequences that start with one; got {type(rows)}."
                )
            check_rows("a batch of the DataLoader", rows)
            # A graph takes rows as they lay in memory when it was recorded.
            yield rows.to(self._device, non_blocking=True).contiguous()

    def observe(self, batch: Tensor) -> Tensor:
        """Return rows in the model's dtype."""
        return batch.to(self._dtype) if batch.is_floating_point() else batch

    def first(self) -> Tensor:
        """Return the first batch, without advancing the loader's random state."""
        own = None if self.generator is None else self.generator.clone_state()
        with unmoved_generators():
            try:
                return next(self.epoch(0))
            except StopIteration:
                raise ValueError("fit: the DataLoader yields nothing.") from None
            finally:
                if self.generator is not None and own is not None:
                    self.generator.set_state(own.get_state())

    def describe(self) -> dict[str, Any]:
        """Say what the data are."""
        dataset = type(self._loader.dataset)
        return {
            "name": "DataLoader",
            "dataset": f"{dataset.__module__}:{dataset.__qualname__}",
            "batches": self.steps,
            "batch_size": self._loader.batch_size,
        }


def check_rows(what: str, rows: Tensor) -> None:
    """Refuse empty data and values that are NaN or infinite.

    Raises:
        ValueError: says how many values and where the first one is.
    """
    if rows.numel() == 0:
        raise ValueError(f"{what}: there are none (shape {tuple(rows.shape)}).")
    # A sum is finite only if every term is, and takes one pass without a mask as large as the data.
    if rows.is_floating_point() and not rows.sum(dtype=torch.float64).isfinite():
        bad = (~rows.isfinite()).nonzero()
        if len(bad):
            raise ValueError(
                f"{what}: {len(bad)} values are NaN or infinite, the first at index {tuple(bad[0].tolist())}. "
                f"Clean the data before fitting."
            )
