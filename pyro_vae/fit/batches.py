"""Where a training loop's rows come from: tensors in memory, or any DataLoader."""

import hashlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from pyro_vae.data import ImageData
from pyro_vae.fit.steps.gradients import Batch
from pyro_vae.programs.missing import all_finite, check_finite_rows, check_not_empty
from pyro_vae.programs.modules import as_args, as_input
from pyro_vae.protocols import Program
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count, check_dense, in_short
from pyro_vae.runtime.random_state import unmoved_generators

A_BATCH = "a batch of the DataLoader"
"""What is refused, for messages."""

VALIDATION_BLOCK = 1000
"""Validation data a call: large enough for the matmuls, small enough for the cache."""

Data = ImageData | Tensor | tuple[Tensor, ...] | DataLoader
"""What a pair is fitted to."""


class TensorBatches:
    """Shuffled batches of a tensor, of several, or of the training split of an :class:`ImageData`.

    A batch is the indices of its rows; :meth:`observe`, which is part of the step and of its graph, gathers them. The
    order depends on the seed and the epoch alone, so that a run can be resumed at any epoch. Rows left over by the
    batch size are dropped, other ones each epoch. A batch of all rows has them in their own order.

    Args:
        data: ``ImageData``, or a tensor of model inputs ``(N, ...)``, or a tuple of such tensors.
        batch_size: rows a batch.
        seed: of the order.
        device: where the rows are kept.
        dtype: of the model's input.

    Raises:
        ValueError: no data, values that are not finite, or fewer rows than a batch.
    """

    def __init__(
        self, data: ImageData | Tensor | tuple[Tensor, ...], batch_size: int, seed: int, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        columns = columns_of("data", "training data", data.train if isinstance(data, ImageData) else data)
        rows = columns[0]
        check_count("fit", "batch_size", batch_size)
        if len(rows) < batch_size:
            raise ValueError(
                f"fit: {len(rows)} training data are fewer than one batch of {batch_size}; choose "
                f"{argument('batch_size', len(rows))} or less."
            )
        self._data = data
        self._columns = [column.to(device) for column in columns]
        self._batch_size, self._seed, self._dtype = batch_size, seed, dtype
        self._device = device
        self.num_data: int | None = len(rows)
        """Data an epoch is drawn from, where that is known."""
        self.steps: int | None = len(rows) // batch_size
        """Batches an epoch, where that is known."""
        self.generator: torch.Generator | None = None
        """A random state of the batches' own that an epoch advances."""
        self.same = len(rows) == batch_size
        """Whether each batch is the same data in the same order."""

    def epoch(self, index: int) -> Iterator[Tensor]:
        """Yield the indices of the rows of each batch of one epoch."""
        if self.same:
            yield self.first()
            return
        seed = np.random.SeedSequence((self._seed, index)).generate_state(1, np.uint64)[0]
        rows = len(self._columns[0])
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(int(seed >> np.uint64(1))))
        order = order.to(self._device)
        for step in range(rows // self._batch_size):
            yield order[step * self._batch_size : (step + 1) * self._batch_size]

    def observe(self, batch: Any) -> Any:
        """Return the model's input for rows by their indices: scaled and binarized as the data set says."""
        rows = [column.index_select(0, batch) for column in self._columns]
        x = as_args(self._data.observe(as_input(rows))) if isinstance(self._data, ImageData) else rows
        return in_dtype(x, self._dtype)

    def first(self) -> Tensor:
        """Return the indices of the first rows, as many as a batch."""
        return torch.arange(self._batch_size, device=self._device)

    def all_inputs(self) -> Any:
        """Return all model inputs, or None where a step draws them."""
        if not isinstance(self._data, ImageData):
            return self._data
        return None if self._data.binarization == "stochastic" else self._data.train

    def describe(self) -> dict[str, Any]:
        """Say what the data are, in YAML's terms."""
        return describe_data(self._data)


class LoaderBatches:
    """Batches of a DataLoader, each a tensor or a sequence of those that model and guide are called with in order.

    A batch is its rows. One with NaN or infinite values is refused, unless ``pair`` hides them behind a mask.

    Args:
        loader: any ``torch.utils.data.DataLoader``.
        device: where batches are moved to.
        dtype: of the model's input.
        pair: model and guide; nothing where it is known to hide no data.
    """

    def __init__(self, loader: DataLoader, device: torch.device, dtype: torch.dtype, *pair: Program) -> None:
        self._loader, self._device, self._dtype, self.pair = loader, device, dtype, pair
        self.generator: torch.Generator | None = loader.generator
        self.num_data: int | None = len(loader.dataset) if isinstance(loader.dataset, Sized) else None
        try:
            self.steps: int | None = len(loader)
        except TypeError:
            self.steps = None
        self.same = self.steps == 1 and isinstance(loader.sampler, SequentialSampler)
        if self.steps == 0:
            raise ValueError("fit: the DataLoader has no batch; lower its batch_size or set drop_last=False.")

    def epoch(self, index: int) -> Iterator[Batch]:  # noqa: ARG002 (the loader keeps its own order)
        """Yield the rows of one epoch, in the loader's order."""
        for batch in self._loader:
            columns = _columns_of_batch(batch)
            if not all(map(all_finite, columns)):
                check_finite_rows(A_BATCH, as_input(columns), *self.pair)
            # A graph takes rows as they lay in memory when it was recorded.
            yield as_input([column.to(self._device, non_blocking=True).contiguous() for column in columns])

    def observe(self, batch: Batch) -> Any:
        """Return rows in the model's dtype."""
        return in_dtype(as_args(batch), self._dtype)

    def first(self) -> Batch:
        """Return the first batch, without advancing the loader's random state."""
        before = None if self.generator is None else self.generator.get_state()
        with unmoved_generators():
            try:
                return next(self.epoch(0))
            except StopIteration:
                raise ValueError("fit: the DataLoader must yield a batch at least; it yields none.") from None
            finally:
                if self.generator is not None and before is not None:
                    self.generator.set_state(before)

    def all_inputs(self) -> None:
        """Return None: the inputs are loaded batch by batch."""

    def describe(self) -> dict[str, Any]:
        """Say what the data are, in YAML's terms."""
        return {**describe_data(self._loader), "batches": self.steps, "batch_size": self._loader.batch_size}


Batches = TensorBatches | LoaderBatches


def columns_of(argument: str, what: str, data: Any) -> list[Tensor]:
    """Return data as the tensors that model and guide are called with, one row a datum.

    Args:
        argument: of ``fit`` that they came as, for messages.
        what: they are, for messages.
        data: a tensor ``(N, ...)``, or a tuple of them.

    Raises:
        ValueError: there is something else, nothing, or tensors differ in length.
    """
    columns = list(data) if isinstance(data, tuple) else [data]
    for column in columns:
        if not isinstance(column, Tensor) or column.ndim == 0:
            remedy = " Of an array pass torch.from_numpy(x)." if isinstance(column, np.ndarray) else ""
            raise ValueError(
                f"fit: {argument} must be an ImageData, a tensor, a tuple of tensors or a DataLoader; got "
                f"{in_short(column)}.{remedy}"
            )
        check_dense(what, column)
        check_not_empty(what, column)
    _require_as_long(argument, columns)
    return columns


def _require_as_long(what: str, columns: Sequence[Tensor]) -> None:
    """Refuse tensors that do not all have the same number of rows.

    Raises:
        ValueError: says their shapes.
    """
    if len({len(column) for column in columns}) != 1:
        shapes = ", ".join(str(tuple(column.shape)) for column in columns)
        raise ValueError(f"fit: the tensors of {what} must have one row for each datum; got shapes {shapes or 'none'}.")


def in_dtype(columns: Sequence[Tensor], dtype: torch.dtype) -> Any:
    """Return the model's input: floating tensors in its dtype, whole numbers as they are."""
    return as_input([column.to(dtype) if column.is_floating_point() else column for column in columns])


def validation_blocks(
    valid: Tensor | tuple[Tensor, ...] | DataLoader | None, device: torch.device, dtype: torch.dtype
) -> Callable[[], Iterator[Any]] | None:
    """Return what yields the validation data block by block as model inputs, None where there are none."""
    if valid is None or (isinstance(valid, Tensor | tuple) and all(len(column) == 0 for column in as_args(valid))):
        return None
    if isinstance(valid, DataLoader):
        loader = LoaderBatches(valid, device, dtype)
        return lambda: (loader.observe(rows) for rows in loader.epoch(0))
    columns = columns_of("valid", "validation data", valid)

    def block(start: int) -> Any:
        return in_dtype([column[start : start + VALIDATION_BLOCK].to(device) for column in columns], dtype)

    return lambda: map(block, range(0, len(columns[0]), VALIDATION_BLOCK))


def describe_data(data: Data) -> dict[str, Any]:
    """Say in YAML's terms what data are: their name, shapes, and a hash of the content where it can be seen."""
    if isinstance(data, ImageData):
        return data.describe()
    if isinstance(data, DataLoader):
        dataset = type(data.dataset)
        return {"name": "DataLoader", "dataset": f"{dataset.__module__}:{dataset.__qualname__}"}
    digest = hashlib.sha256()
    for column in as_args(data):
        digest.update(column.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    shapes = [list(column.shape) for column in as_args(data)]
    named = {"name": "tensors", "shapes": shapes} if isinstance(data, tuple) else {"name": "tensor", "shape": shapes[0]}
    return {**named, "content_hash": digest.hexdigest()}


def _columns_of_batch(batch: Any) -> list[Tensor]:
    """Return the tensors of a DataLoader's batch, with one row for each datum.

    Raises:
        ValueError: it has something else, or rows of another number.
    """
    columns = list(batch) if isinstance(batch, list | tuple) else [batch]
    if not columns or not all(isinstance(column, Tensor) and column.ndim for column in columns):
        parts = ", ".join(
            f"{type(part).__name__}{tuple(part.shape) if isinstance(part, Tensor) else ''}" for part in columns
        )
        came = f"{len(columns)} parts ({parts})" if isinstance(batch, list | tuple) else in_short(batch)
        raise ValueError(
            f"fit: {A_BATCH} must be a tensor, or a sequence of tensors that model and guide are called with in order; "
            f"got {came}: collate_fn=... makes tensors of it."
        )
    for column in columns:
        check_not_empty(A_BATCH, column)
    _require_as_long(A_BATCH, columns)
    return columns
