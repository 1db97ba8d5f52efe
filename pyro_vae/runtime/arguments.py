"""Name arguments in messages as their reader writes them: in a call, as a flag, or as a setting in a file."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Reader = Literal["python", "flags", "script", "settings"]

_reader: ContextVar[Reader] = ContextVar("reader", default="python")
_reader_of_run: ContextVar[Reader | None] = ContextVar("reader_of_run", default=None)
"""Where a part is made: the reader of the messages on what is no option of it."""


@contextmanager
def named_as(whom: Reader) -> Iterator[None]:
    """Name arguments, inside the block, as their reader writes them.

    Args:
        whom: "python" if the reader calls functions, "flags" for the command line, "script" for a script, whose parts
            have no flags for their options, "settings" for a file.
    """
    token = _reader.set(whom)
    try:
        yield
    finally:
        _reader.reset(token)


@contextmanager
def options_named() -> Iterator[None]:
    """Name the arguments of a part, inside the block, as in its text, if the reader has typed a command.

    >>> with named_as("flags"), options_named():
    ...     argument("rank", 2), argument("labels", True, of_run=True)
    ('rank: 2', '--labels')
    """
    if not are_flags():
        yield
        return
    token = _reader_of_run.set(reader())
    try:
        with named_as("settings"):
            yield
    finally:
        _reader_of_run.reset(token)


def reader() -> Reader:
    """Return the kind of reader of messages."""
    return _reader.get()


def are_flags() -> bool:
    """Whether the reader has typed a command, of the command line or of a script."""
    return reader() in ("flags", "script")


def argument(name: str, value: object = "", of_run: bool = False) -> str:
    """Return an argument as its reader writes it.

    Args:
        name: of the argument, and of the flag.
        value: of the argument; "" returns its name alone. True is written as a flag without a value, and "..." stands
            for any value.
        of_run: it is an argument of the run, whatever part is being made.

    >>> argument("out"), argument("resume", True), argument("out", "...")
    ('out', 'resume=True', 'out=...')
    >>> with named_as("flags"):
    ...     argument("out"), argument("resume", True), argument("out", "..."), argument("epochs", 3)
    ('--out', '--resume', '--out', '--epochs 3')
    >>> with named_as("settings"):
    ...     argument("binarization", "static")
    'binarization: static'
    """
    whom = (_reader_of_run.get() if of_run else None) or reader()
    if whom in ("flags", "script"):
        return f"--{name}" if value in ("", "...") or value is True else f"--{name} {value}"
    if value == "":
        return name
    if whom == "settings":
        return f"{name}: {str(value).lower() if isinstance(value, bool) else value}"
    return f"{name}={'...' if value == '...' else repr(value)}"


def with_flags(message: str, names: Collection[str], prefix: str = "") -> str:
    """Return a message with flags for the arguments that it names, if its reader has typed a command.

    Args:
        message: of an error, with the names of arguments in Python.
        names: names of arguments that are flags.
        prefix: of these flags, as ``guide.``.

    A name without an underscore may be a word of English: it is an argument only if "must" or "=" follows it.

    >>> with named_as("flags"):
    ...     with_flags("LowRankGuide: rank must be from 1 to latent_dim = 2; got 9.", ["rank", "latent_dim"], "guide.")
    'LowRankGuide: --guide.rank must be from 1 to --guide.latent_dim = 2; got 9.'
    """
    if not (are_flags() and names):
        return message
    written = [rf"{name}\b" if "_" in name else rf"{name}(?=\s*=|\s+must\b)" for name in names]
    return re.sub(rf"(?<![\w.'\"`-])(?:{'|'.join(written)})(?![\w'\".(])", rf"--{prefix}\g<0>", message)
