"""Write numbers, units and errors in words, for results and messages."""

import difflib
import math
from collections.abc import Iterable


def rounded_error(value: float) -> str:
    """Return a standard error with two decimals, or with two significant digits if it is below 0.095.

    >>> rounded_error(0.236), rounded_error(0.0123), rounded_error(float("nan"))
    ('0.24', '0.012', 'unknown')
    """
    if math.isnan(value):
        return "unknown"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def count(number: int, unit: str) -> str:
    """Return a number of units, in words.

    >>> count(1, "datum"), count(2, "simulated datum"), count(2, "image")
    ('1 datum', '2 simulated data', '2 images')
    """
    plural = f"{unit.removesuffix('datum')}data" if unit.endswith("datum") else f"{unit}s"
    return f"{number} {unit if number == 1 else plural}"


def in_one_line(error: Exception) -> str:
    """Return an exception's class and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def did_you_mean(name: str, known: Iterable[str], *, quoted: bool = True) -> str:
    """Return a question that suggests the nearest known name, with a space before it; "" if none is near.

    >>> did_you_mean("iav", ["iaf", "planar"]), did_you_mean("--epcohs", ["--epochs", "--lr"], quoted=False)
    (" Did you mean 'iaf'?", ' Did you mean --epochs?')
    """
    nearest = difflib.get_close_matches(name, list(known), n=1)
    if not nearest:
        return ""
    return f" Did you mean {nearest[0]!r}?" if quoted else f" Did you mean {nearest[0]}?"
