"""A user's data in a NumPy file."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.option import check_names, data_option
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits, given_splits, split_randomly
from pyro_vae.data.values import MASK, Values, check_numbers, first_of_many, in_float32
from pyro_vae.runtime.user_code import told
from pyro_vae.runtime.wording import did_you_mean

SPLITS = ("train", "valid", "test")
"""Names of the arrays of splits."""

X = "x"
"""Name of the array of data where other arrays lie beside it, and the splits are drawn."""

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip archive, as a ``.npz`` is: of one with members, and of one without."""

BOMB_BYTES, BOMB_RATIO = 2**30, 200
"""An archive whose content is larger than both limits, in bytes and relative to the file, is not read.

A GiB of images does not shrink to a 200th.
"""


@dataclass(frozen=True)
class ArrayFile(Source):
    """Arrays in a ``.npy`` or ``.npz`` file: all data, split 80/10/10 by a fixed permutation, or the splits themselves.

    A ``.npz`` with arrays named ``train`` and ``test`` is taken as it is. Without ``valid``, a tenth of
    ``train`` is the validation split. Integer labels may lie beside them as ``train_labels``, ``valid_labels`` and
    ``test_labels``, and further tensors of each datum as ``train_NAME``, ``valid_NAME`` and ``test_NAME``. Else there
    is one array of all data; it is named ``x`` where arrays ``labels`` or ``NAME`` with a row for each datum lie beside
    it, and is split together with them. Pixels have one of the shapes of :func:`pyro_vae.data.pixels.as_pixels`; real
    values and counts have any shape ``(N, ...)``.

    Attributes:
        path: the file.
        tensors: names of the arrays that follow x in each datum, in this order; ``labels`` may be one of them.
        values: what x is: pixels, real or counts; by default by its dtype and range, which a line says.
        standardize: whether each feature is standardised by the training data's mean and standard deviation.
        missing: refuse or mask: whether NaN is refused, or filled with 0 and marked in a mask that follows x.
    """

    path: Path
    tensors: tuple[str, ...] = ()
    values: str | None = None
    standardize: bool = False
    missing: str = "refuse"
    binarizations = GREY_BY_DEFAULT
    needs_root = False
    options = ("tensors", "values", "standardize", "missing")

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", check_names("tensors", self.tensors))
        if self.missing == MASK and MASK in self.tensors:
            raise ValueError(
                f"load_data: {MASK!r} is either an array of the file, {data_option('tensors', (MASK,))}, or made of "
                f"missing values, {data_option('missing', MASK)}: leave one out."
            )
        _ = self._values

    @property
    def _values(self) -> Values:
        return Values(self.values, self.standardize, self.missing)

    @property
    def datum(self) -> tuple[str, ...]:
        """The mask where one is made, then the tensors that were asked for."""
        return ((MASK,) if self.missing == MASK else ()) + self.tensors

    def load(self, request: Request) -> Splits:
        """Read and check the arrays."""
        arrays = _read_arrays(self.path)
        if {"train", "test"} <= arrays.keys():
            splits = {name: arrays[name] for name in SPLITS if name in arrays}
            beside = _beside_splits(self.path, arrays, splits)
        else:
            name = _name_of_all(self.path, arrays)
            splits = {"": arrays[name]}
            beside = {"": {other: array for other, array in arrays.items() if other != name}}
        values = self._values.of(splits, str(self.path))
        stored = {name: self._stored(values, name, array, beside[name]) for name, array in splits.items()}
        if "" in stored:
            made = split_randomly(stored[""], request.valid_size, self.path)
        else:
            made = given_splits(stored, request.valid_size, self.path)
        return values.finished(made, str(self.path))

    def _stored(self, values: Values, split: str, array: np.ndarray, beside: dict[str, np.ndarray]) -> Split:
        """Return one split with its labels and the tensors that were asked for; ``""`` are all data."""
        data = values.stored(array, f"{self.path}[{split!r}]" if split else str(self.path))
        labels = beside.get("labels")
        tensors = dict(data.tensors)
        for name in self.tensors:
            title = f"{split}_{name}" if split else name
            if name not in beside:
                there = ", ".join(sorted(beside)) or "no other arrays"
                raise ValueError(
                    f"load_data: {self.path} has no array {title!r}, which {data_option('tensors', self.tensors)} asks "
                    f"for.{did_you_mean(name, beside)} Beside {split or X} there are {there}."
                )
            if name != "labels":
                tensors[name] = _further(beside[name], len(array), f"{self.path}[{title!r}]")
        if labels is not None:
            _check_labels(labels, len(data), self.path, f"{split}_labels" if split else "labels")
        classes = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        return Split(data.images, classes, tensors)


def _beside_splits(
    path: Path, arrays: dict[str, np.ndarray], splits: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays beside those of each split by their own names, as ``labels`` of ``train_labels``.

    Raises:
        ValueError: an array belongs to no split.
    """
    beside: dict[str, dict[str, np.ndarray]] = {name: {} for name in splits}
    for title, array in arrays.items():
        split, underscore, name = title.partition("_")
        if title in splits:
            continue
        if not (split in beside and underscore and name):
            raise ValueError(
                f"load_data: {path} has arrays named train and test, beside which it may hold valid, and further "
                f"arrays of each as train_labels or train_NAME; it also holds {title}."
            )
        beside[split][name] = array
    return beside


def _name_of_all(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Return the name of the array of all data."""
    others = set(arrays) - {"labels"}
    if len(others) == 1:
        return others.pop()
    if X in others and not others & set(SPLITS):
        return X
    raise ValueError(
        f"load_data: {path} must hold one array of data, or {X} and further arrays with a row for each datum, or "
        f"arrays named train, test and perhaps valid; it holds {', '.join(arrays) or 'none'}."
    )


def _check_labels(labels: np.ndarray, number: int, path: Path, name: str) -> None:
    if labels.shape != (number,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"load_data: {path}: {name} must be {number} integers, one a datum; got "
            f"shape {labels.shape} and dtype {labels.dtype}."
        )


def _further(array: np.ndarray, number: int, where: str) -> Tensor:
    """Return a further tensor of each datum: float32, int64 or bool.

    Raises:
        ValueError: it has another number of rows, no numbers, or values that are not finite.
    """
    if array.ndim == 0 or len(array) != number:
        raise ValueError(f"load_data: {where} must have a row for each of {number} data; got shape {array.shape}.")
    check_numbers(array, where)
    if array.dtype == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind in "iu":
        if array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"load_data: {where} must hold numbers below 2**63; the largest is {array.max()}.")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise ValueError(
            f"load_data: {where} has {first_of_many(wrong)} not finite (NaN or infinite). Only x may have missing "
            f"values: remove those data or fill them in."
        )
    return torch.from_numpy(in_float32(array, where))


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
                "code. Data of one shape make a numeric array: np.save(path, np.stack(data)), for images "
                "np.stack(images).astype(np.uint8)."
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
