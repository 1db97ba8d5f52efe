"""Print results and help on standard output, and all else on standard error."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from pyro_vae.errors import CheckpointError


class HelpWanted(Exception):  # noqa: N818 (no error)
    """Ends a command; its message is the help text to print."""


class Output:
    """Results on standard output, all else on standard error.

    A reader that closes its end of the pipe early, as ``head`` does, ends the output and not the work.

    Args:
        stream: standard output.
        quiet: leave out notes and bars.
        json: print results as one JSON text on standard output, and their lines for people on standard error.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, json: bool = False) -> None:
        self._stream, self._quiet, self._json = stream, quiet, json
        self._closed = False
        self.after_interrupt: Callable[[], str] = str
        """Returns the message after Ctrl-C."""

    @property
    def progress(self) -> bool | None:
        """Whether bars are drawn; None draws them on a terminal only."""
        return False if self._quiet else None

    def say(self, line: str) -> None:
        """Print a line of the result, for people."""
        if self._json:
            self.note(line)
        else:
            self.text(line)

    def give(self, content: Mapping[str, Any]) -> None:
        """Print the result as JSON, for programs, if ``--json`` was given."""
        if self._json:
            self.text(json.dumps(finite(content), indent=2))

    def note(self, line: str) -> None:
        """Print a line about the work, on standard error."""
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def complain(self, line: str) -> None:
        """Print what went wrong on standard error, with ``--quiet`` as well."""
        print(f"pyro-vae: {line}", file=sys.stderr, flush=True)  # noqa: T201

    def text(self, text: str) -> None:
        """Print a text on standard output."""
        if self._closed:
            return
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            self._closed = True
            # Python flushes standard output once more at its end: into the null device, not the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """Reserve standard output for results, and redirect whatever else is written to it to standard error.

    So standard output holds results only, even if a class of the user's own prints, here or in a worker process.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as stream:
        os.dup2(2, 1)
        try:
            yield stream
        finally:
            sys.stdout.flush()
            os.dup2(stream.fileno(), 1)


@contextlib.contextmanager
def where_to(folder: Path) -> Iterator[None]:
    """Tell the user to name another folder with ``--out`` where results cannot be written to this one.

    Raises:
        CheckpointError: results cannot be written.
    """
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = cause.strerror or str(error).removesuffix(".")
        raise CheckpointError(f"{folder} cannot be written: {reason}. Name another place with --out.") from error


def finite(value: Any) -> Any:
    """Return a value with None in place of NaN and infinity, which JSON does not have.

    >>> finite({"mean": [1.0, math.nan]})
    {'mean': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
