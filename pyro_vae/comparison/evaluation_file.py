"""What ``evaluation.json`` holds: each field with its kind, checked whole whenever it is read."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro_vae.errors import RunError
from pyro_vae.runtime.reading import Fields

Check = Callable[[Fields, str], object]


def _number(fields: Fields, name: str) -> object:
    return fields.number(name)


def _whole(fields: Fields, name: str) -> object:
    return fields.whole(name)


def _whole_or_null(fields: Fields, name: str) -> None:
    if fields.has(name):
        fields.whole(name)


def _seed(fields: Fields, name: str) -> object:
    return fields.whole(name, least=-(2**63))


def _text(fields: Fields, name: str) -> object:
    return fields.text(name)


def _texts(fields: Fields, name: str) -> object:
    return fields.texts(name)


def _size(fields: Fields, name: str) -> None:
    """Check a number that is none below 0, as errors and times are; NaN where there is none."""
    if fields.number(name) < 0:
        raise fields.error(name, "a number from 0")


def _truth(fields: Fields, name: str) -> None:
    if not isinstance(fields.values[name], bool):
        raise fields.error(name, "true or false")


def _units(fields: Fields, name: str) -> None:
    """Check the order of the latent units, or of those of each site."""
    found = fields.values.get(name)
    for units in found.values() if isinstance(found, Mapping) else [found]:
        if not isinstance(units, list) or not all(type(unit) is int and unit >= 0 for unit in units):
            raise fields.error(name, "a list of units, or one for each site")


def _plain(fields: Fields, name: str) -> None:
    if not isinstance(fields.values[name], str | int | float | None):
        raise fields.error(name, "a number or a text")


REQUIRED: dict[str, dict[str, Check]] = {
    "elbo": {
        "elbo_nats": _number, "standard_error": _size, "data_standard_error": _size, "reconstruction_nats": _number,
        "reconstruction_standard_error": _size, "rate_nats": _number, "rate_standard_error": _size,
    },
    "log_likelihood": {
        "log_likelihood_nats": _number, "standard_error": _size, "data_standard_error": _size,
        "khat_threshold": _number,
    },
    "gaps": {
        f"{name}_gap_{what}": check
        for name in ("approximation", "amortization", "inference")
        for what, check in (("nats", _number), ("standard_error", _size), ("data_standard_error", _size))
    },
    "data": {"name": _text, "binarization": _text, "content_hash": _text, "seed": _seed},
    "environment": {},
}  # fmt: skip
"""By group, fields that it always has."""

TOP: dict[str, Check] = {
    "epochs": _whole, "compiled": _text, "test_images": _text, "fit_seconds": _size, "evaluation_seconds": _size,
    "model_parameters": _whole, "guide_parameters": _whole, "active_units": _whole_or_null, "most_active": _units,
    "in_words": _texts,
}  # fmt: skip
"""Fields that are in no group."""

OTHERS: dict[str, Check] = {
    "bound": _truth, "larger_family": _truth, "family": _text, "evidence_source": _text, "undecided_units": _whole,
    "disagreement": _text,
}  # fmt: skip
"""Fields that some results have, null where they say nothing."""

BY_NAME: tuple[tuple[str, Check], ...] = (
    ("num_", _whole),
    ("share_", _size),
    ("median_", _size),
    ("bits_per_dim", _number),
)
"""Further ones, by how their names begin."""

BY_END: tuple[tuple[str, Check], ...] = (("standard_error", _size), ("_nats", _number), ("_threshold", _number))
"""And by how they end."""


def check_evaluation(found: Mapping[str, Any], where: str) -> None:
    """Refuse results of which a field is missing, or of another kind than is written.

    Args:
        found: the content of ``evaluation.json``.
        where: the file, for the message.

    Raises:
        RunError: names the file and the field.
    """
    fields = Fields.of(found, where)
    try:
        for name, check in TOP.items():
            check(_there(fields, name), name)
        _check_others(fields, TOP)
        for group, required in REQUIRED.items():
            if group == "gaps" and group not in found:
                continue
            inside = fields.fields(group)
            for name, check in required.items():
                check(_there(inside, name), name)
            if group == "environment":
                for name in inside.values:
                    _plain(inside, name)
            else:
                _check_others(inside, required)
    except RunError as error:
        raise RunError(f"{error} Remove the file: it is measured again.") from error


def _there(fields: Fields, name: str) -> Fields:
    if name not in fields.values:
        raise RunError(f"{fields.where}: `{name}` is missing.")
    return fields


def _check_others(fields: Fields, checked: Mapping[str, Check]) -> None:
    for name, value in fields.values.items():
        if name not in checked and value is not None:
            by_name = [check for start, check in BY_NAME if name.startswith(start)]
            by_name += [check for end, check in BY_END if name.endswith(end)]
            for check in [OTHERS[name]] if name in OTHERS else by_name[:1]:
                check(fields, name)
