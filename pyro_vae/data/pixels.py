"""Check a user's array of images, and bring it into the form that the package stores."""

import numpy as np
import torch
from torch import Tensor

_FORMS = "(N, features), (N, height, width), (N, channels, height, width) or (N, height, width, channels)"

ROUNDING = 1e-6
"""Pixels in single precision may exceed [0, 1] by this much, by rounding."""


def as_pixels(array: np.ndarray, where: str) -> Tensor:
    """Return images as stored pixels.

    Args:
        array: ``(N, D)``, ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with C of 1 or 3; uint8 in
            [0, 255], bool, or floating point in [0, 1].
        where: name of the array in messages.

    Returns:
        uint8 (also for bool, as 0 and 255) or float32, ``(N, D)`` or ``(N, C, H, W)``.

    Raises:
        ValueError: rank, dtype or values are not as above, or there is no pixel at all.

    >>> as_pixels(np.zeros((7, 8, 9, 3), dtype=np.float64), "here").shape
    torch.Size([7, 3, 8, 9])
    """
    if array.size == 0:
        raise ValueError(f"load_data: {where} is empty: its shape is {array.shape}.")
    return torch.from_numpy(np.ascontiguousarray(_checked_values(channels_first(array, where), where)))


def channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """Return images with their channels, 1 or 3, in the first dim of an image; flat data as they are.

    Raises:
        ValueError: the array has another shape.
    """
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise ValueError(f"load_data: {where} must have shape {_FORMS}; got {array.ndim} dimensions, {array.shape}.")
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first and not last:
        return array
    if last and not first:
        return np.moveaxis(array, 3, 1)
    problem = "could have its channels first or last" if first else "has 1 or 3 channels neither first nor last"
    raise ValueError(f"load_data: {where} must have shape {_FORMS} with 1 or 3 channels; {array.shape} {problem}.")


def _checked_values(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        if array.max() == 1:
            raise ValueError(
                f"load_data: {where} is uint8, which means intensities from 0 to 255, yet its largest "
                "value is 1. For images of zeros and ones save .astype(bool) or .astype(np.float32)."
            )
        return array
    if array.dtype.kind != "f":
        raise ValueError(
            f"load_data: {where} must be uint8 from 0 to 255, bool, or floating point in [0, 1]; got "
            f"{array.dtype}. For integers from 0 to 255 save .astype(np.uint8)."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"load_data: {where} has {_count(bad)} not finite (NaN or infinite). Remove those images or fill them in."
        )
    # Sums and quotients of pixels may exceed [0, 1] by a rounding. Only such values are changed.
    for end, beyond in ((0, array < 0), (1, array > 1)):
        array = np.where(beyond & (np.abs(array - end) <= ROUNDING), array.dtype.type(end), array)
    bad = (array < 0) | (array > 1)
    if bad.any():
        raise ValueError(
            f"load_data: {where} has {_count(bad)} outside [0, 1]; they range from {array.min():g} to "
            f"{array.max():g}. {_remedy(array)}"
        )
    return array.astype(np.float32)


def _remedy(array: np.ndarray) -> str:
    if array.min() >= 0 and 2 < array.max() <= 255:
        return "For intensities from 0 to 255 divide by 255, or save .astype(np.uint8)."
    return "Give pixels as they were before they were standardised or otherwise rescaled, from 0 to 1."


def _count(bad: np.ndarray) -> str:
    """Say how many values are bad, and where the first one is (channels first)."""
    first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
    return f"{int(bad.sum())} of {bad.size} values, the first at {first},"
