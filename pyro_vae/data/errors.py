"""The two ways in which data on disk can fail: it is not there, or it is not what it should be."""

import textwrap

LONGEST = 200
"""Characters that are quoted of what another library says; some of them quote the damaged bytes."""


class DataNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for, and could not be fetched; the message names the ways out."""


class DataCorruptError(ValueError):
    """A data file is truncated, half downloaded or altered; the message names the file and the fix."""


def quoted(error: Exception) -> str:
    """Return an exception's class and the start of what it says, on one line.

    >>> quoted(ValueError("   no shape   " + 100 * "0, "))[:30]
    'ValueError: no shape 0, 0, 0, '
    """
    return f"{type(error).__name__}: {textwrap.shorten(str(error), LONGEST, placeholder=' ...')}"
