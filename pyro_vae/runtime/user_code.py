"""Write an exception in one line, with the line of the user's code in which it arose."""

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
"""Folders of Python, of installed packages and of this package: code elsewhere is the user's."""

LONGEST = 300
"""Largest number of characters of an exception's message."""


def place_of(error: BaseException) -> str:
    """Return the file and line of the user's code in which an exception arose; "" if it arose elsewhere.

    That is the innermost line of its traceback outside of Python, of installed packages and of this package.

    >>> place_of(ValueError("never raised"))
    ''
    """
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = frame.filename
        if not file.startswith("<") and not str(Path(file).resolve()).startswith(LIBRARIES):
            inside = Path(file).is_relative_to(Path.cwd())
            place = f"{os.path.relpath(file) if inside else file}, line {frame.lineno}"
    return place


def plainly(error: BaseException) -> str:
    """Return an exception's message in one line, without the tensors and the table of shapes that Pyro prints."""
    text = str(error).partition("Trace Shapes:")[0]
    text = re.sub(r"tensor\((?:[^()]|\([^()]*\))*\)", "tensor(...)", text)
    return " ".join(text.split()).removesuffix(", but found invalid values: tensor(...)")


def with_place(text: str, error: BaseException) -> str:
    """Return a text, followed by the line of the user's code in which an exception arose, if there is one."""
    place = place_of(error)
    return f"{text} ({place})" if place else text


def with_message(error: Exception, message: str) -> Exception:
    """Return an exception of the same class, with the same traceback, and with another message.

    Its class is a subclass of the same name: the messages of some classes, as of OSError and KeyError, do not follow
    from their arguments alone.

    >>> with_message(KeyError("width"), "pixels: no width")
    KeyError('width')
    >>> print(with_message(KeyError("width"), "pixels: no width"))
    pixels: no width
    """
    kind = type(error)
    members = {"__str__": lambda _: message, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    subclass = type(kind.__name__, (kind,), members)
    # Without __init__, whose arguments may be others than those that the exception keeps.
    copy: Exception = subclass.__new__(subclass, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy.with_traceback(error.__traceback__)


def told(error: BaseException) -> str:
    """Return an exception's class, its shortened message and the line of the user's code, in one line.

    >>> told(KeyError("width"))
    "KeyError: 'width'"
    """
    message = textwrap.shorten(plainly(error), LONGEST, placeholder=" ...") or "no message"
    return with_place(f"{type(error).__name__}: {message}", error)
