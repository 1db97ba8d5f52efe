"""A user's images in a NumPy file."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.pixels import as_pixels
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits, given_splits, split_randomly
from pyro_vae.runtime.user_code import told

SPLITS = ("train", "valid", "test")
"""Names of the arrays of splits."""

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip archive, as a ``.npz`` is: of one with members, and of one without."""

BOMB_BYTES, BOMB_RATIO = 2**30, 200
"""An archive whose content is larger than both limits, in bytes and relative to the file, is not read.

A GiB of images does not shrink to a 200th.
"""


@dataclass(frozen=True)
class ArrayFile(Source):
    """One array in a ``.npy`` or ``.npz``, split 80/10/10 by a fixed permutation; or the splits themselves.

    A ``.npz`` with arrays named ``train`` and ``test`` is taken as it is. Without ``valid``, a tenth of
    ``train`` is the validation split. Integer labels may lie beside them as ``train_labels``, ``valid_labels`` and
    ``test_labels``. For the shapes and values that an array may have see `as_pixels`.

    Attributes:
        path: the file.
    """

    path: Path
    binarizations = GREY_BY_DEFAULT
    needs_root = False

    def load(self, request: Request) -> Splits:
        """Read and check the array or arrays."""
        arrays = _read_arrays(self.path)
        if {"train", "test"} <= arrays.keys():
            return self._given_splits(arrays, request.valid_size)
        if len(arrays) != 1:
            raise ValueError(
                f"load_data: {self.path} must hold one array of images, or arrays named train, test and "
                f"perhaps valid; it holds {', '.join(arrays) or 'none'}."
            )
        (array,) = arrays.values()
        return split_randomly(Split(as_pixels(array, str(self.path))), request.valid_size, self.path)

    def _given_splits(self, arrays: dict[str, np.ndarray], valid_size: int | None) -> Splits:
        known = {*SPLITS, *(f"{name}_labels" for name in SPLITS)}
        if not arrays.keys() <= known:
            raise ValueError(
                f"load_data: {self.path} has arrays named train and test, beside which it may hold "
                f"{', '.join(sorted(known - {'train', 'test'}))}; it also holds "
                f"{', '.join(sorted(arrays.keys() - known))}."
            )
        splits = {name: self._split(arrays, name) for name in SPLITS if name in arrays}
        return given_splits(splits, valid_size, self.path)

    def _split(self, arrays: dict[str, np.ndarray], name: str) -> Split:
        images = as_pixels(arrays[name], f"{self.path}[{name!r}]")
        labels = arrays.get(f"{name}_labels")
        if labels is None:
            return Split(images)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"load_data: {self.path}: {name}_labels must be {len(images)} integers, one an image; got "
                f"shape {labels.shape} and dtype {labels.dtype}."
            )
        return Split(images, torch.from_numpy(labels.astype(np.int64)))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return every array of the file by name (a ``.npy`` has one, without a name), never executing a pickle."""
    try:
        with path.open("rb") as file:
            if file.read(4) in ZIP:
                return _read_members(path, file)
            file.seek(0)
            return {"": _read_array(file)}
    except PermissionError:  # no damage; its message names the file
        raise
    except Exception as error:  # On damage NumPy and zipfile raise whatever their parsers run into.
        if "Object arrays" in str(error):
            raise ValueError(
                f"load_data: {path} holds Python objects (dtype object), and reading them could execute "
                "code. Images of one size make a numeric array: np.save(path, "
                "np.stack(images).astype(np.uint8))."
            ) from error
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) is not a whole NumPy file "
            f"({told(error)}). Write it again with np.save or np.savez; a pickle is not "
            "accepted, since reading one could execute code."
        ) from error


def _read_members(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of a zip archive."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size, inflated = path.stat().st_size, sum(member.file_size for member in members)
        if inflated > max(BOMB_BYTES, BOMB_RATIO * size):
            raise ValueError(f"it would grow to {inflated} bytes, {inflated // size} times its size")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"it has two arrays named {name}")
            with archive.open(member) as opened:
                arrays[name] = _read_array(opened)
    return arrays


def _read_array(file: IO[bytes]) -> np.ndarray:
    """Return the one array that a stream holds."""
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    # Where a stream has come to its end, zipfile compares checksums.
    if file.read(1):
        raise ValueError("something follows its array, as if it had been written to twice")
    return array
