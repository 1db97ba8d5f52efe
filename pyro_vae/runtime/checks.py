"""Check arguments: whole numbers, finite numbers, paths, dense tensors.

Each check raises a ValueError that names the caller ``who`` and its argument ``name``, and says what the argument must
be and what it is.
"""

import math
import os
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_count(who: str, name: str, count: Any, least: int = 1, why: str = "", most: int | None = None) -> None:
    """Refuse a value that is no whole number from ``least`` to ``most``; ``why`` follows the limits in the message."""
    check_whole(who, name, count)
    if count < least or (most is not None and count > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{who}: {name} must be {limits}{why}; got {count}.")


def check_whole(who: str, name: str, count: Any) -> None:
    """Refuse a value that is no whole number.

    >>> check_whole("log_likelihood", "num_samples", 1e3)
    Traceback (most recent call last):
        ...
    ValueError: log_likelihood: num_samples must be a whole number; got 1000.0: write 1000.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        whole = isinstance(count, float) and count.is_integer()
        remedy = f": write {int(count)}" if whole else ""
        raise ValueError(f"{who}: {name} must be a whole number; got {in_short(count)}{remedy}.")


def check_seed(who: str, seed: Any) -> None:
    """Refuse a value that torch does not take as a seed.

    >>> check_seed("fit", 2**64)
    Traceback (most recent call last):
        ...
    ValueError: fit: seed must lie between -2**63 and 2**64 - 1; got 18446744073709551616.
    """
    check_whole(who, "seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{who}: seed must lie between -2**63 and 2**64 - 1; got {seed}.")


def check_number(who: str, name: str, number: Any) -> None:
    """Refuse a value that is no finite number.

    >>> check_number("RenyiBound", "alpha", math.inf)
    Traceback (most recent call last):
        ...
    ValueError: RenyiBound: alpha must be a finite number; got inf.
    """
    if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
        raise ValueError(f"{who}: {name} must be a finite number; got {in_short(number)}.")


def check_path(who: str, name: str, path: Any) -> None:
    """Refuse a value that cannot be the path of a file or folder.

    >>> check_path("fit", "out", "")
    Traceback (most recent call last):
        ...
    ValueError: fit: out must be the path of a file or folder; got ''.
    """
    try:
        text = os.fspath(path)
        possible = isinstance(text, str) and text != "" and b"\0" not in os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        possible = False
    if not possible:
        raise ValueError(f"{who}: {name} must be the path of a file or folder; got {in_short(path)}.")


def check_dense(what: str, rows: Tensor) -> None:
    """Refuse a sparse or nested tensor, and one that holds no values; ``what`` names it in the message."""
    if rows.is_nested or rows.is_meta or rows.layout != torch.strided:
        kind = "nested" if rows.is_nested else "meta" if rows.is_meta else "sparse"
        raise ValueError(f"{what} must be a dense tensor that holds values; got a {kind} one.")


def is_positive(number: Any) -> bool:
    """Whether an argument is a finite number above 0.

    >>> is_positive(0.5), is_positive(True), is_positive(math.inf), is_positive("shared")
    (True, False, False, False)
    """
    return isinstance(number, Real) and not isinstance(number, bool) and 0 < float(number) < math.inf


def in_short(value: Any) -> str:
    """Return a value as it is written in Python; if that is long, the name of its type.

    >>> in_short("iwae"), in_short(int), in_short([0] * 100)
    ("'iwae'", 'the class int', 'an object of class list')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"an object of class {type(value).__name__}"
