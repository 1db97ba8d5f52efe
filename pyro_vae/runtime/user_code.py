"""What an exception says, and where in the user's own code it arose: what a message keeps of a traceback."""

import os
import re
import sysconfig
import textwrap
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

LIBRARIES = tuple(
    {str(Path(folder).resolve()) for name, folder in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
    | {str(folder.resolve()) for folder in (PACKAGE, PACKAGE / "models", PACKAGE / "guides")}
)
"""Folders of Python, of installed packages and of this one: what lies elsewhere is the user's."""

LONGEST = 300
"""Characters of what an exception says."""


def place_of(error: BaseException) -> str:
    """Return file and line of the user's code that an exception came out of, nothing where it is none of theirs.

    That is the innermost line that is neither Python's nor an installed package's. An exception that was raised from
    another one in a package is the other's.

    >>> place_of(ValueError("never raised"))
    ''
    """
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = frame.filename
        if not file.startswith("<") and not str(Path(file).resolve()).startswith(LIBRARIES):
            inside = Path(file).is_relative_to(Path.cwd())
            found = f"{os.path.relpath(file) if inside else file}, line {frame.lineno}"
    return found


def plainly(error: BaseException) -> str:
    """Return what an exception says in one line, without the tensors and the table of shapes that Pyro prints."""
    text = str(error).partition("Trace Shapes:")[0]
    text = re.sub(r"tensor\((?:[^()]|\([^()]*\))*\)", "tensor(...)", text)
    return " ".join(text.split()).removesuffix(", but found invalid values: tensor(...)")


def with_place(text: str, error: BaseException) -> str:
    """Return a text with the place in the user's code that an exception came out of, where it is theirs."""
    place = place_of(error)
    return f"{text} ({place})" if place else text


def told(error: BaseException) -> str:
    """Return an exception's class, what it says in short and where in the user's code it arose, in one line.

    >>> told(KeyError("width"))
    "KeyError: 'width'"
    """
    said = textwrap.shorten(plainly(error), LONGEST, placeholder=" ...") or "no message"
    return with_place(f"{type(error).__name__}: {said}", error)
