"""Read files that others may have written: within bounds, into plain values whose fields are checked.

A folder from another person is data: reading it runs no code, follows no link out of it, and takes bounded memory and
time. A damaged or unusual file raises a :class:`pyro_vae.errors.RunError` in one line, with the file and the field.
"""

import csv
import json
import os
import stat
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pyro_vae.errors import RunError

TEXT_BYTES = 16 * 2**20
"""Largest size of a text file: a grid of ten thousand cells has 10 MB."""

DEPTH = 40
"""Largest number of nested levels; a configuration has ten."""

TOO_DEEP = f"it has more than {DEPTH} levels, one within another"

VALUES = 2_000_000
"""Largest number of values in a YAML text with its aliases written out."""

WHOLE_BITS = 64
"""Largest size of a whole number."""

TOO_LARGE = f"{{!s:.20}}... is no whole number of {WHOLE_BITS} bits"

DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that a library may raise for a damaged file."""

Place = tuple[str | int, ...]
"""Keys and positions that lead from the top of a YAML file to a value."""


def require_inside(file: Path, folder: Path) -> None:
    """Raise a RunError if a path leads out of a folder, by ``..`` or by a link."""
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
    except RuntimeError as error:  # before Python 3.13, of a link that leads back to itself
        raise RunError(f"{file} cannot be read: its links lead round in a circle.") from error
    if not inside:
        raise RunError(f"{file} leads out of {folder}: a folder is read without what lies elsewhere. Copy the file.")


def read_bytes(file: Path, inside: Path | None = None, limit: int = TEXT_BYTES) -> bytes:
    """Return a file's content.

    Args:
        file: a regular file.
        inside: a folder that it must not lead out of.
        limit: the most bytes that it may have.

    Raises:
        RunError: it cannot be read, is no regular file, or is too large.
    """
    if inside is not None:
        require_inside(file, inside)
    try:
        # Without O_NONBLOCK the name of a pipe would wait for a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RunError(f"{file} cannot be read: it is no regular file.")
            # To ask for more bytes than there are would allocate memory for them.
            content = b"" if status.st_size > limit else opened.read(status.st_size + 1)
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}.") from error
    if max(status.st_size, len(content)) > limit:
        raise RunError(f"{file} cannot be read: it has more than {limit:,} bytes.")
    return content


def read_text(file: Path, inside: Path | None = None, limit: int = TEXT_BYTES) -> str:
    """Return a text file's content. Arguments and errors are those of :func:`read_bytes`."""
    try:
        return read_bytes(file, inside, limit).decode()
    except UnicodeDecodeError as error:
        raise RunError(f"{file} cannot be read: it is no text in UTF-8 (byte {error.start}).") from error


def read_json(file: Path, inside: Path | None = None) -> Any:
    """Return what a JSON file holds.

    Raises:
        RunError: as for :func:`read_bytes`; it is no JSON, has a key twice, or a number or text that is out of bounds.
    """
    return parse_json(read_text(file, inside), str(file))


def parse_json(text: str, where: str) -> Any:
    """Return what a JSON text holds; ``where`` says in messages where it is from."""
    try:
        # Longer numbers are cut, as they take long to read: 99 digits are too large as well.
        content = json.loads(text, parse_int=lambda digits: int(digits[:99]), object_pairs_hook=_unique)
        _check(content)
    except RecursionError:
        raise RunError(f"{where} cannot be read: {TOO_DEEP}.") from None
    except ValueError as error:
        raise RunError(f"{where} cannot be read: {error}.") from error
    return content


def read_yaml(file: Path, inside: Path | None = None, limit: int = TEXT_BYTES) -> Any:
    """Return what a YAML file of at most ``limit`` bytes holds: texts, numbers, lists and mappings.

    Raises:
        RunError: as for :func:`read_bytes`; it is no YAML, has another tag, a key twice, a value that contains itself,
            or more levels or values than :data:`DEPTH` and :data:`VALUES`.
    """
    return read_yaml_with_lines(file, inside, limit)[0]


def read_yaml_with_lines(
    file: Path, inside: Path | None = None, limit: int = TEXT_BYTES
) -> tuple[Any, dict[Place, int]]:
    """Return what :func:`read_yaml` does, and the line of each key, item and value, from 1."""
    text = read_text(file, inside, limit)
    lines: dict[Place, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _note_lines(node, (), lines, {})
        content = loader.construct_document(node)
        _check(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        raise RunError(f"{where}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    return content, lines


def read_table(file: Path, columns: Sequence[str], rows: int, inside: Path | None = None) -> list[dict[str, float]]:
    """Return the first rows of a CSV file of numbers.

    Args:
        file: with a header.
        columns: that it must have; it may have others.
        rows: how many to read.
        inside: a folder that it must not lead out of.

    Raises:
        RunError: as for :func:`read_bytes`; a column is missing or occurs twice, or an entry is no number.
    """
    reader = csv.reader(read_text(file, inside).splitlines())
    try:
        header = next(reader, [])
        table = []
        for number, entries in enumerate(islice(reader, rows), 1):
            if len(entries) != len(header):
                raise ValueError(f"row {number} has {len(entries)} entries under {len(header)} columns")
            table.append(dict(zip(header, map(float, entries), strict=True)))
    except (csv.Error, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}.") from error
    for column in columns:
        times = header.count(column)
        if times != 1:
            raise RunError(f"{file}: its columns must be {', '.join(columns)}; {column!r} is there {times} times.")
    return table


def read_tensors(file: Path, inside: Path | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, in the order of their names, and its metadata.

    Raises:
        RunError: it leads out of the folder, is larger than a quarter of the machine's memory, or is damaged.
    """
    # The file is read once: safetensors' own reader opens it twice, and another process may replace it in between.
    content = read_bytes(file, inside, _a_quarter_of_the_memory())
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, *DAMAGE) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    return dict(sorted(tensors.items())), header.get("__metadata__", {})


def _a_quarter_of_the_memory() -> int:
    """Return a limit in bytes: a file's content, its tensors and their copies in a module are in memory together."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, OSError, ValueError):
        return 2**36


@dataclass(frozen=True)
class Fields:
    """A mapping from a file, whose fields are checked when they are read.

    Args:
        values: the mapping.
        where: the file, for messages.

    >>> Fields.of({"epochs": "many"}, "fitted.json").whole("epochs")
    Traceback (most recent call last):
        ...
    pyro_vae.errors.RunError: fitted.json: `epochs` must be a whole number from 0; got 'many'.
    """

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> "Fields":
        """Return the fields of a value; raise a RunError if it is no mapping."""
        if not isinstance(value, Mapping):
            raise RunError(f"{where} must hold fields with names; it holds {shown(value)}.")
        return cls(value, where)

    def text(self, name: str, choices: Sequence[str] = ()) -> str:
        """Return a text, which must be one of ``choices`` if there are any."""
        wanted = f"one of {', '.join(choices)}" if choices else "a text"
        return self._value(name, str, wanted, lambda text: not choices or text in choices)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts."""
        return self._value(name, list, "a list of texts", lambda items: all(isinstance(item, str) for item in items))

    def whole(self, name: str, least: int = 0) -> int:
        """Return a whole number."""
        return self._value(name, int, f"a whole number from {least}", lambda number: number >= least)

    def number(self, name: str) -> float:
        """Return a number, which may be NaN."""
        return float(self._value(name, (int, float), "a number"))

    def fields(self, name: str) -> "Fields":
        """Return the fields of a field that is a mapping."""
        return Fields(self._value(name, Mapping, "fields with names"), f"{self.where}: {name}")

    def has(self, name: str) -> bool:
        """Whether a field exists and is not null."""
        return self.values.get(name) is not None

    def error(self, name: str, wanted: str) -> RunError:
        """Return an error that says what a field must be."""
        return RunError(f"{self.where}: `{name}` must be {wanted}; got {shown(self.values.get(name))}.")

    def _value(
        self, name: str, kind: type | tuple[type, ...], wanted: str, fits: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        if name not in self.values:
            raise RunError(f"{self.where}: `{name}` is missing.")
        value = self.values[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
            raise self.error(name, wanted)
        return value


def shown(value: Any) -> str:
    """Return a value in one line for a message; a long one is cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Loader(yaml.SafeLoader):
    """Reads dates as texts, and refuses too many nested levels."""

    # All patterns of values but those of dates.
    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's protocol)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _levels = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return a node, with the nodes in it."""
        self._levels += 1
        if self._levels > DEPTH:
            raise ValueError(TOO_DEEP)
        node = super().compose_node(parent, index)
        self._levels -= 1
        return node


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], sizes: dict[int, int]) -> int:
    """Record the line of each key, item and value, and return the number of values with aliases written out.

    The lines of an aliased value are those where it is first written. All nodes are checked before any value is made,
    as YAML keeps the last of two equal keys, merges mappings without a limit, and is slow to read numbers to the base
    60.

    Args:
        node: of a YAML text, in which an alias is the node that it stands for.
        place: of the node.
        lines: the line of each place; entries are added.
        sizes: the results for nodes that were counted before, by their ids; entries are added.

    Raises:
        yaml.MarkedYAMLError: there are too many values, a key is no text or occurs twice, or a number is too long.
    """

    def refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    lines.setdefault(place, node.start_mark.line + 1)
    if id(node) not in sizes:
        # Too many until the size is known: a value that contains itself has no end.
        size, sizes[id(node)] = 1, VALUES + 1
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise refused(key, "a key must be a text")
                if (*place, key.value) in lines:
                    raise refused(key, f"{key.value!r} stands here twice")
                lines[(*place, key.value)] = key.start_mark.line + 1
                size += 1 + _note_lines(child, (*place, key.value), lines, sizes)
        elif isinstance(node, yaml.SequenceNode):
            for number, child in enumerate(node.value):
                size += _note_lines(child, (*place, number), lines, sizes)
        elif node.tag.endswith(":int") and len(node.value) > WHOLE_BITS:
            raise refused(node, TOO_LARGE.format(node.value))
        if size > VALUES:
            raise refused(node, f"more than {VALUES:,} values, aliases written out")
        sizes[id(node)] = size
    return sizes[id(node)]


def _check(value: Any, level: int = 1) -> None:
    """Refuse a value that no file of this package holds.

    Raises:
        ValueError: it has too many levels, or is no plain value; a whole number is too large; or a text has a control
            character or half of a surrogate pair.
    """
    if level > DEPTH:
        raise ValueError(TOO_DEEP)
    if isinstance(value, dict | list):
        for child in value if isinstance(value, list) else (*value, *value.values()):
            _check(child, level + 1)
    elif isinstance(value, str):
        for character in "" if value.isprintable() else value:
            if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
                raise ValueError(f"a text holds the character {character!a}")
    elif isinstance(value, int) and abs(value) >= 2**WHOLE_BITS:
        raise ValueError(TOO_LARGE.format(value))
    elif not isinstance(value, float | int | None):
        raise ValueError(f"it holds a value of class {type(value).__name__}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of a JSON text; raise a ValueError if a key occurs twice."""
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise ValueError(f"{name!r} stands in one place twice")
        mapping[name] = value
    return mapping
