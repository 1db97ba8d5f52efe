"""Options of data sets in messages, as their reader writes them."""

from typing import Any

from pyro_vae.runtime.arguments import reader
from pyro_vae.runtime.checks import in_short


def data_option(name: str, value: object) -> str:
    """Return an option of a data set as the reader of a message writes it.

    >>> from pyro_vae.runtime.arguments import named_as
    >>> data_option("resize", (32, 32))
    'resize=(32, 32)'
    >>> with named_as("flags"):
    ...     data_option("resize", (32, 32)), data_option("center_crop", True), data_option("missing", "mask")
    ('--data.resize 32 32', '--data.center_crop', '--data.missing mask')
    >>> with named_as("settings"):
    ...     data_option("missing", "mask")
    "data: NAME(missing='mask')"
    """
    if reader() == "flags":
        words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return f"--data.{name}" if value is True else f"--data.{name} {words}"
    written = f"{name}={value!r}"
    return written if reader() == "python" else f"data: NAME({written})"


def check_names(option: str, names: Any) -> tuple[str, ...]:
    """Return an option's names as a tuple; one name may stand alone.

    Raises:
        ValueError: it is no sequence of texts, or has one twice.

    >>> check_names("tensors", "library"), check_names("tensors", ["a", "b"])
    (('library',), ('a', 'b'))
    """
    listed = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, list | tuple) else None
    if listed is None or not all(isinstance(name, str) and name for name in listed) or len(set(listed)) < len(listed):
        raise ValueError(f"load_data: {option} must be names, no two of them equal; got {in_short(names)}.")
    return listed
