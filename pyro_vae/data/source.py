"""What a data set owes the loader: its pixels in three splits, and a cheap answer to "are you there?"."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarization import BINARIZATIONS
from pyro_vae.runtime.arguments import argument

# Which images are held out must never change, for any user's seed and any version of a library.
# RandomState's stream is frozen (NumPy's NEP 19); torch.randperm's is not. The number itself is arbitrary.
_SPLIT_SEED = 20140401


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
    """Stored pixels ``(N, *x_shape)``, uint8 or float32 in [0, 1], with int64 labels ``(N,)`` or None."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> "Split":
        """The images at some int64 indices, as a copy."""
        return Split(self.images[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """A data set before binarization, and a word on where it came from."""

    train: Split
    valid: Split
    test: Split
    source: str


class Source(ABC):
    """A data set that `load_data` knows.

    Attributes:
        binarizations: the ways it may be binarized, a subset of `BINARIZATIONS`; the first is its default.
        already_binary: True where the pixels are zeros and ones as they are stored.
        needs_root: False where its files are not in the folder of the data sets.
    """

    binarizations: tuple[str, ...] = tuple(BINARIZATIONS)
    already_binary: bool = False
    needs_root: bool = True

    @abstractmethod
    def load(self, request: Request) -> Splits:
        """Read and check the files.

        Raises:
            DataNotFoundError: a file is missing and was not fetched.
            DataCorruptError: a file is not what it should be.
            ValueError: the request cannot be met, e.g. more validation images than there are.
        """

    @abstractmethod
    def is_available(self, root: Path) -> bool:
        """Whether `load` would find its files, of the right size, without a download; reads none of them."""


def default_order(number: int) -> Tensor:
    """The fixed permutation of ``number`` images that splits are cut from, int64 ``(number,)``."""
    return torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(number).astype(np.int64))


def hold_out(images: Split, order: Tensor, valid_size: int, name: str) -> tuple[Split, Split]:
    """Put the images into an order, then cut the last ``valid_size`` off as validation.

    Args:
        images: what there is.
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
            f"one of the {len(order)} images beside the test set is left for training; got {valid_size}"
        )
    kept = len(order) - valid_size
    return images[order[:kept]], images[order[kept:]]


def split_three_ways(images: Split, test_size: int, valid_size: int, name: str, source: str) -> Splits:
    """Shuffle in the fixed order, then cut test and validation off the end.

    The test images are the same for every ``valid_size``.
    """
    order = default_order(len(images))
    kept = len(images) - test_size
    train, valid = hold_out(images, order[:kept], valid_size, name)
    return Splits(train, valid, images[order[kept:]], source)
