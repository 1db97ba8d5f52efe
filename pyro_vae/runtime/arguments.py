"""Name in messages what their reader gives: an argument of a call, a flag of the command line, a setting of a file."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Reader = Literal["python", "flags", "script", "settings"]

_reader: ContextVar[Reader] = ContextVar("reader", default="python")


@contextmanager
def named_as(whom: Reader) -> Iterator[None]:
    """Name arguments, inside the block, as their reader does.

    Args:
        whom: "python" for who calls functions, "flags" for who types a command, "script" for who runs a script, whose
            parts have no flags for their options, "settings" for who writes a file.
    """
    token = _reader.set(whom)
    try:
        yield
    finally:
        _reader.reset(token)


def reader() -> Reader:
    """Return who reads the messages."""
    return _reader.get()


def are_flags() -> bool:
    """Whether the reader has typed a command, ours or a script's."""
    return reader() in ("flags", "script")


def argument(name: str, value: object = "") -> str:
    """Return an argument as its reader writes it.

    Args:
        name: of the argument, and of the flag.
        value: to give it; nothing names it alone. True is the presence of a flag, "..." any value.

    >>> argument("out"), argument("resume", True), argument("out", "...")
    ('out', 'resume=True', 'out=...')
    >>> with named_as("flags"):
    ...     argument("out"), argument("resume", True), argument("out", "..."), argument("epochs", 3)
    ('--out', '--resume', '--out', '--epochs 3')
    >>> with named_as("settings"):
    ...     argument("binarization", "static")
    'binarization: static'
    """
    if are_flags():
        return f"--{name}" if value in ("", "...") or value is True else f"--{name} {value}"
    if value == "":
        return name
    if reader() == "settings":
        return f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
    return f"{name}={'...' if value == '...' else repr(value)}"


def with_flags(message: str, names: Collection[str], prefix: str = "") -> str:
    """Return a message with flags for the arguments that it names, where its reader has typed a command.

    Args:
        message: of an error in Python's words.
        names: of arguments that are flags.
        prefix: of these flags, as ``guide.``.

    A name that is a word of the language is one of an argument where "must" or "=" follows it.

    >>> with named_as("flags"):
    ...     with_flags("LowRankGuide: rank must be from 1 to latent_dim = 2; got 9.", ["rank", "latent_dim"], "guide.")
    'LowRankGuide: --guide.rank must be from 1 to --guide.latent_dim = 2; got 9.'
    """
    if not (are_flags() and names):
        return message
    written = [rf"{name}\b" if "_" in name else rf"{name}(?=\s*=|\s+must\b)" for name in names]
    return re.sub(rf"(?<![\w.'\"`-])(?:{'|'.join(written)})(?![\w'\".(])", rf"--{prefix}\g<0>", message)
