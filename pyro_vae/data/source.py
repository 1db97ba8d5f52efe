"""The interface of data sets: each loads its pixels in three splits, and says whether its files are there."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarization import BINARIZATIONS
from pyro_vae.data.known_file import KnownFile
from pyro_vae.runtime.arguments import argument

# Which images are held out must change neither with the user's seed nor with the version of a library.
# RandomState's stream is frozen (NumPy's NEP 19); torch.randperm's is not. The number itself is arbitrary.
_SPLIT_SEED = 20140401


SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What the user's own splits may be called, in lower case."""

GREY_BY_DEFAULT = ("none", *(name for name in BINARIZATIONS if name != "none"))
"""The ways to binarize images whose pixels are mostly far from black and white, the default first."""


@dataclass(frozen=True)
class Request:
    """What the caller of `load_data` asked for.

    Attributes:
        root: folder that holds the downloaded data sets.
        valid_size: number of validation images, or None for the data set's own.
        download: whether a missing file may be fetched.
    """

    root: Path
    valid_size: int | None = None
    download: bool = False


@dataclass(frozen=True)
class Split:
    """Stored data ``(N, *x_shape)``, with what belongs to each datum.

    Attributes:
        images: pixels, uint8 or float32 in [0, 1]; or real values or counts, floating point.
        labels: int64 ``(N,)``, or None.
        tensors: further tensors of each datum, ``(N, ...)``, by name.
    """

    images: Tensor
    labels: Tensor | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> "Split":
        """Return the data at some int64 indices, as a copy."""
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return Split(self.images[rows], None if self.labels is None else self.labels[rows], tensors)

    @property
    def kinds(self) -> str:
        """The shape of one datum and the dtype of each of its tensors, in words."""
        words = [f"{tuple(self.images.shape[1:])} {self.images.dtype}"]
        words += [f"{name} {tuple(tensor.shape[1:])} {tensor.dtype}" for name, tensor in self.tensors.items()]
        return ", ".join(words)


@dataclass(frozen=True)
class Splits:
    """A data set before binarization, with a note on where it came from.

    Attributes:
        train: for training.
        valid: for validation; it may be empty.
        test: for evaluations.
        source: where it came from.
        values: what x is: a key of :data:`pyro_vae.data.values.VALUES`.
        shift: what was subtracted from x, float64 ``x_shape``, if x was standardised.
        scale: what x was divided by then, float64 ``x_shape``.
        classes: the texts that labels and other tensors stand for, in the order of their codes, by the tensor's name.
    """

    train: Split
    valid: Split
    test: Split
    source: str
    values: str = "pixels"
    shift: Tensor | None = None
    scale: Tensor | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Split]:
        """The three splits."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


class Source(ABC):
    """A data set that `load_data` knows.

    Attributes:
        binarizations: the ways it may be binarized, a subset of `BINARIZATIONS`; the first is its default.
        already_binary: whether the stored pixels are zeros and ones.
        needs_root: whether its files are in the folder of the data sets.
        files: its files in that folder, with their known content.
        options: which of its constructor's arguments `load_data` takes.
    """

    options: ClassVar[tuple[str, ...]] = ()

    binarizations: tuple[str, ...] = tuple(BINARIZATIONS)
    already_binary: bool = False
    needs_root: bool = True
    files: tuple[KnownFile, ...] = ()

    @abstractmethod
    def load(self, request: Request) -> Splits:
        """Read and check the files.

        Raises:
            DataNotFoundError: a file is missing and was not fetched.
            DataCorruptError: a file is not what it should be.
            ValueError: the request cannot be met, e.g. more validation images than there are.
        """

    def is_available(self, root: Path) -> bool:
        """Whether `load` would find its files, of the right size, without a download; reads none of them."""
        return all(file.is_there(root) for file in self.files)

    @property
    def datum(self) -> tuple[str, ...]:
        """Names of the tensors that follow x in each datum."""
        return ()


def default_order(number: int) -> Tensor:
    """Return the fixed permutation of ``number`` images that splits are cut from, int64 ``(number,)``."""
    return torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(number).astype(np.int64))


def hold_out(images: Split, order: Tensor, valid_size: int, name: str) -> tuple[Split, Split]:
    """Put the images into an order, then cut the last ``valid_size`` off as validation.

    Args:
        images: to be split.
        order: the rows that are for training or validation, int64 ``(number,)``.
        valid_size: number of validation images.
        name: of the data set, for the error.

    Returns:
        Training and validation images, as copies that do not keep ``images`` in memory.

    Raises:
        ValueError: no image would be left for training.
    """
    if not 0 <= valid_size < len(order):
        raise ValueError(
            f"load_data({name!r}): {argument('valid_size')} must be between 0 and {len(order) - 1}, so that at least "
            f"one of the {len(order)} data beside the test set is left for training; got {valid_size}."
        )
    train_size = len(order) - valid_size
    return images[order[:train_size]], images[order[train_size:]]


def split_three_ways(images: Split, test_size: int, valid_size: int, name: str, source: str) -> Splits:
    """Shuffle in the fixed order, then cut test and validation off the end.

    The test images are the same for every ``valid_size``.
    """
    order = default_order(len(images))
    others, test = order[:-test_size], order[-test_size:]
    return Splits(*hold_out(images, others, valid_size, name), images[test], source)


def split_randomly(images: Split, valid_size: int | None, path: Path) -> Splits:
    """Split images 80/10/10 by the fixed permutation, or with ``valid_size`` validation images.

    Raises:
        ValueError: there are fewer than 10 images.
    """
    tenth = len(images) // 10
    if tenth == 0:
        raise ValueError(
            f"load_data: {path} holds {len(images)} data, too few to split 80/10/10: at least 10 are "
            "needed (or splits of your own, as a .npz with arrays named train, valid and test)."
        )
    return split_three_ways(images, tenth, tenth if valid_size is None else valid_size, str(path), source=str(path))


def given_splits(splits: dict[str, Split], valid_size: int | None, path: Path) -> Splits:
    """Take the user's own splits as they are, and cut those that are missing off the training images.

    Args:
        splits: "train", and perhaps "valid" and "test".
        valid_size: number of validation images; None means all of "valid", or without "valid" a tenth of "train".
        path: of the data, for errors.

    Raises:
        ValueError: the splits differ in shape or dtype, or ``valid_size`` contradicts them.
    """
    kinds = {name: split.kinds for name, split in splits.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"load_data: {path}: all splits must hold data of one shape and dtype; got {kinds}.")
    train, test = splits["train"], splits.get("test")
    if len(splits) == 1:
        return split_randomly(train, valid_size, path)
    if test is None:
        train, test = hold_out(train, default_order(len(train)), max(1, len(train) // 10), str(path))
    if "valid" in splits:
        if valid_size not in (None, len(splits["valid"])):
            raise ValueError(
                f"load_data: {path} brings its own {len(splits['valid'])} validation data: leave "
                f"{argument('valid_size')} out; got {valid_size}."
            )
        return Splits(train, splits["valid"], test, source=str(path))
    if valid_size is None:
        valid_size = len(train) // 10
        if valid_size == 0:
            raise ValueError(
                f"load_data: {path} holds {len(train)} training data, too few to cut a tenth off for "
                f"validation: give a valid split, or {argument('valid_size', 0)}."
            )
    train, valid = hold_out(train, default_order(len(train)), valid_size, str(path))
    return Splits(train, valid, test, source=str(path))
