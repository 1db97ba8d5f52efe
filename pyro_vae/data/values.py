"""Real values and counts: check a user's arrays, standardise them, and mark what is missing.

Pixels are the subject of `pyro_vae.data.pixels`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.option import data_option
from pyro_vae.data.pixels import ROUNDING, as_pixels, channels_first
from pyro_vae.data.source import Split, Splits
from pyro_vae.runtime.checks import in_short
from pyro_vae.runtime.wording import count

#: * ``"pixels"``: intensities from 0 to 1, which can be binarized and drawn.
#: * ``"real"``: real numbers of any range and shape, kept in float32.
#: * ``"counts"``: whole numbers from 0 to 2**24, which float32 holds exactly.
VALUES = ("pixels", "real", "counts")

MISSING = ("refuse", "mask")
"""What happens to missing values: they are refused, or filled with 0 and marked in a mask."""

MASK = "mask"
"""Name of the tensor that says what was observed."""

MOST_COUNTS = 2**24
"""Largest whole number up to which float32 holds all of them."""

logger = logging.getLogger("pyro_vae")


@dataclass(frozen=True)
class Values:
    """What x is, and what is done to it.

    Attributes:
        values: one of `VALUES`; None chooses by dtype and range: uint8, bool and floats in [0, 1] are pixels, other
            whole numbers from 0 on are counts, all others are real values.
        standardize: whether each element of real x has the training data's mean subtracted, and is then divided by
            their standard deviation, sqrt(mean((x - mean)^2)), both computed in float64 over what was observed.
        missing: one of `MISSING`: "mask" fills NaN with 0, after x was standardised, and puts a bool tensor ``mask`` of
            x's shape, true where x was observed, behind x in each datum.

    Raises:
        ValueError: an attribute is none of these, or what is to be standardised is not real.
    """

    values: str | None = None
    standardize: bool = False
    missing: str = "refuse"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("values", self.values, (None, *VALUES)),
            ("standardize", self.standardize, (False, True)),
            ("missing", self.missing, MISSING),
        ):
            if type(value) not in {type(choice) for choice in known} or value not in known:
                words = ", ".join(str(choice) for choice in known if choice is not None)
                raise ValueError(f"load_data: {name} must be one of {words}; got {in_short(value)}.")
        if self.standardize and self.values in ("pixels", "counts"):
            raise ValueError(
                f"load_data: {data_option('standardize', True)} is for real values; got "
                f"{data_option('values', self.values)}."
            )

    def of(self, arrays: Mapping[str, np.ndarray], where: str) -> "Values":
        """Return these settings with ``values`` chosen by dtype and range, and say in a line what was chosen.

        Args:
            arrays: x, of each split or of all of them, by name.
            where: the file, for messages.

        Raises:
            ValueError: an array is empty, has no numbers, or may hold grey levels as well as counts.
        """
        if self.values is not None:
            return self
        chosen = "real" if self.standardize else _by_range(arrays, where)
        if chosen != "pixels":
            low, high = _range(arrays.values())
            logger.warning(
                "load_data: %s: values from %g to %g are taken as %s; %s says so without this line.",
                where, low, high, _in_words(chosen), data_option("values", chosen),
            )  # fmt: skip
        return replace(self, values=chosen)

    def stored(self, array: np.ndarray, where: str, columns: Sequence[str] = ()) -> Split:
        """Return an array as the data of a split, in float64 where it is standardised later.

        Args:
            array: ``(N, ...)``.
            where: its name in messages.
            columns: names of the elements of x, if they have names.

        Raises:
            ValueError: its dtype, shape or values are none that these settings allow.
        """
        check_numbers(array, where)
        absent = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
        if self.missing == "refuse" and absent.any():
            raise ValueError(
                f"load_data: {where} has {first_of_many(absent, columns)} missing (NaN). Remove those data, fill them "
                f"in, or keep them with a mask of what was observed: {data_option('missing', 'mask')}."
            )
        filled = np.where(absent, array.dtype.type(0), array) if absent.any() else array
        if self.values == "pixels":
            images, absent = as_pixels(filled, where), channels_first(absent, where)
        elif array.ndim < 2:
            raise ValueError(
                f"load_data: {where} must have shape (N, features) or more dims; got {array.shape}. One number a datum "
                f"is x.reshape(-1, 1)."
            )
        else:
            images = torch.from_numpy(self._numbers(filled, where, columns))
        tensors = {MASK: torch.from_numpy(np.ascontiguousarray(~absent))} if self.missing == MASK else {}
        return Split(images, tensors=tensors)

    def _numbers(self, array: np.ndarray, where: str, columns: Sequence[str]) -> np.ndarray:
        array = array.astype(np.uint8) if array.dtype == np.bool_ else array
        infinite = ~np.isfinite(array)
        if infinite.any():
            raise ValueError(
                f"load_data: {where} has {first_of_many(infinite, columns)} infinite. Remove or replace those data."
            )
        if self.values == "counts":
            for wrong, what in (
                (array < 0, "negative"), (array != np.floor(array), "not whole"), (array > MOST_COUNTS, "above 2**24"),
            ):  # fmt: skip
                if wrong.any():
                    raise ValueError(
                        f"load_data: {where} must hold counts, whole numbers from 0 to 2**24; it has "
                        f"{first_of_many(wrong, columns)} {what}. Real numbers are {data_option('values', 'real')}."
                    )
        if self.standardize:
            return array.astype(np.float64)
        return in_float32(array, where, columns)

    def finished(self, splits: Splits, where: str, columns: Sequence[str] = ()) -> Splits:
        """Return splits as model inputs: standardised if asked for, in float32.

        Args:
            splits: of :meth:`stored` data.
            where: the file, for messages.
            columns: names of the elements of x, if they have names.

        Raises:
            ValueError: what is to be standardised is constant or missing in the training data.
        """
        assert self.values is not None
        if not self.standardize:
            return replace(splits, values=self.values)
        shift, scale = _moments(splits.train, where, columns)
        scaled = {}
        for name, split in splits.by_name.items():
            images = (split.images - shift) / scale
            if MASK in split.tensors:
                images[~split.tensors[MASK]] = 0.0
            array = in_float32(images.numpy(), f"{where}, standardised,", columns)
            scaled[name] = replace(split, images=torch.from_numpy(array))
        return replace(
            splits, train=scaled["train"], valid=scaled["valid"], test=scaled["test"], values=self.values, shift=shift,
            scale=scale,
        )  # fmt: skip


def check_numbers(array: np.ndarray, where: str) -> None:
    """Refuse an array that is empty or whose dtype is no number.

    Raises:
        ValueError: says which.
    """
    if array.size == 0:
        raise ValueError(f"load_data: {where} is empty: its shape is {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"load_data: {where} must hold real numbers, whole or floating point; got dtype {array.dtype}."
            f"{' Give real and imaginary parts as two features.' if array.dtype.kind == 'c' else ''}"
        )


def in_float32(array: np.ndarray, where: str, columns: Sequence[str] = ()) -> np.ndarray:
    """Return numbers in float32, the nearest ones.

    Raises:
        ValueError: float32 has no number as large.
    """
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    too_large = ~np.isfinite(single)
    if too_large.any():
        raise ValueError(
            f"load_data: {where} has {first_of_many(too_large, columns)} beyond the range of float32, 3.4e38. Rescale "
            f"them, or take {data_option('standardize', True)}."
        )
    return single


def first_of_many(which: np.ndarray, columns: Sequence[str] = ()) -> str:
    """Say how many values are marked, and which is the first: its index, or in a table its row and its column.

    >>> marked = np.array([[False, False], [True, True]])
    >>> first_of_many(marked)
    '2 of 4 values, the first at (1, 0),'
    >>> first_of_many(marked, ("age", "height"))
    "2 of 4 values, the first in row 2 of column 'age',"
    """
    first = tuple(int(i) for i in np.unravel_index(int(which.argmax()), which.shape))
    place = f"in row {first[0] + 1} of column {columns[first[1]]!r}" if columns else f"at {first}"
    return f"{int(which.sum())} of {which.size} values, the first {place},"


def _range(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the smallest and the largest finite value."""
    lows, highs = [], []
    for array in arrays:
        finite = array[np.isfinite(array)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return min(lows, default=0.0), max(highs, default=0.0)


def _by_range(arrays: Mapping[str, np.ndarray], where: str) -> str:
    for name, array in arrays.items():
        check_numbers(array, f"{where}[{name!r}]" if name else where)
    kinds = {array.dtype.kind for array in arrays.values()}
    if all(array.dtype in (np.bool_, np.uint8) for array in arrays.values()):
        return "pixels"
    low, high = _range(arrays.values())
    if "f" in kinds and low >= -ROUNDING and high <= 1 + ROUNDING:
        return "pixels"
    if low >= 0 and 2 < high <= 255 and any(array.ndim > 2 for array in arrays.values()):
        raise ValueError(
            f"load_data: {where} holds numbers from {low:g} to {high:g}, which may be grey levels: save those as "
            f".astype(np.uint8). If they are none, say {data_option('values', 'counts')} or "
            f"{data_option('values', 'real')}."
        )
    return "counts" if "f" not in kinds and low >= 0 else "real"


def _in_words(values: str) -> str:
    return {"pixels": "pixels", "real": "real values", "counts": "counts"}[values]


def _moments(train: Split, where: str, columns: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each element of the training data, over what was observed."""
    x = train.images.numpy()
    seen = train.tensors[MASK].numpy() if MASK in train.tensors else np.ones(x.shape, dtype=bool)
    number = seen.sum(0)
    low, high = x.min(0, where=seen, initial=np.inf), x.max(0, where=seen, initial=-np.inf)
    for still, what in ((number == 0, "missing in all training data"), (low == high, "constant in the training data")):
        if still.any():
            first = [int(i) for i in np.unravel_index(int(still.argmax()), still.shape)]
            named = repr(columns[first[0]]) if columns else f"x[{', '.join(map(str, first))}]"
            remedy = data_option("drop", (columns[first[0]],)) if columns else "remove what is constant from the file"
            raise ValueError(
                f"load_data: {where}: {count(int(still.sum()), 'feature')}, the first {named}, "
                f"{'is' if still.sum() == 1 else 'are'} {what} and cannot be standardised: {remedy}."
            )
    mean = x.sum(0, where=seen) / number
    variance = np.square(x - mean).sum(0, where=seen) / number
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(variance))
