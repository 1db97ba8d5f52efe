"""The text of a cell's data: a name or a path, with options in brackets, as parts have them."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyro_vae.data import DATASETS, DataNotFoundError, check_options, is_available, source_type
from pyro_vae.parts import parse_part
from pyro_vae.runtime.arguments import argument, with_flags

LABELS = "labels"
"""The option that is a setting of a cell as well."""


def parse_data(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME`` or ``NAME(option=value, ...)`` into the name or path, which may have brackets, and the options.

    Lists are returned as tuples.

    Raises:
        ValueError: what is in the last brackets cannot be read.

    >>> parse_data("table.csv(label_column='species', drop=['id'])")
    ('table.csv', {'label_column': 'species', 'drop': ('id',)})
    >>> parse_data("copy (1).csv(standardize=true)"), parse_data("copy (1)")
    (('copy (1).csv', {'standardize': True}), ('copy (1)', {}))
    """
    if text in DATASETS or not text.endswith(")"):
        return text, {}
    with contextlib.suppress(OSError):
        if Path(text).expanduser().exists():
            return text, {}
    for bracket in re.finditer(r"\(", text):
        with contextlib.suppress(ValueError):
            options = parse_part("data", f"_{text[bracket.start() :]}")[1]
            options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
            return text[: bracket.start()].strip(), options
    if "=" in text[text.rindex("(") :]:
        raise ValueError(
            f"{argument('data')}: cannot read {text!r:.200}: write NAME or NAME(option=value, ...), as "
            f"table.csv(label_column='species'). A text needs quotes; truth values are True and False."
        )
    return text, {}


def data_text(name: str, options: Mapping[str, Any]) -> str:
    """Return the text of data, with the options in the order of their names.

    >>> data_text("x.npz", {"values": "real", "tensors": ("library",)})
    "x.npz(tensors=('library',), values='real')"
    """
    inside = ", ".join(f"{option}={value!r}" for option, value in sorted(options.items()))
    return f"{name}({inside})" if inside else name


def canonical_data(text: str) -> tuple[str, Any]:
    """Return the text of data in one spelling, with the absolute path of the user's own, and the option ``labels``.

    The data need not be there. ``labels`` is a setting of the cell, and None where the text does not have it.

    Raises:
        ValueError: there is no data set of that name, or it has no such option.
    """
    name, options = parse_data(text)
    labels = options.pop(LABELS, None)
    try:
        with naming_data(name):
            is_available(name)
            check_options(name, options)
        path = Path(name)
        if name not in DATASETS and (path.exists() or not (path.is_absolute() or name.startswith("~"))):
            name = str(path.resolve())
        return data_text(name, options), labels
    except OSError as error:
        raise ValueError(f"{argument('data')} {name!r:.60}: {error.strerror or error}.") from error


@contextlib.contextmanager
def naming_data(name: str = "") -> Iterator[None]:
    """Let errors of data name the setting ``data`` and its options, and not the function that loads them.

    Args:
        name: of the data, whose options are flags.
    """
    try:
        yield
    except (DataNotFoundError, ValueError) as error:
        message = re.sub(r"^load_data(\([^)]*\))?:", f"{argument('data')}:", str(error))
        if message == str(error):
            raise
        options = source_type(name).options if name else ()
        raise type(error)(with_flags(message, options, "data.")) from error
