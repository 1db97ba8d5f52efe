"""What ``evaluation.json`` holds: each field with its kind, checked whole whenever it is read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pyro_vae.comparison.evaluations import result_class
from pyro_vae.errors import RunError
from pyro_vae.evaluation import Estimate
from pyro_vae.runtime.reading import Fields

Check = Callable[[Fields, str], object]


def _number(fields: Fields, name: str) -> object:
    return fields.number(name)


def _whole(fields: Fields, name: str) -> object:
    return fields.whole(name)


def _number_or_null(fields: Fields, name: str) -> None:
    if fields.has(name):
        fields.number(name)


def _size_or_null(fields: Fields, name: str) -> None:
    if fields.has(name):
        _size(fields, name)


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


ESTIMATE: dict[str, Check] = {
    "mean": _number_or_null, "standard_error": _size_or_null, "data_standard_error": _size_or_null, "num_data": _whole,
    "num_left_out": _whole, "unit": _text,
}  # fmt: skip
"""Of each estimate."""

CORE: dict[str, tuple[str, ...]] = {
    "elbo_terms": (), "log_likelihood": ("log_likelihood", "khat_above"), "active_units": (),
}  # fmt: skip
"""Evaluations that every cell has, with estimates that are no fields of their results."""

TOP: dict[str, Check] = {
    "epochs": _whole, "compiled": _text, "test_images": _text, "fit_seconds": _size, "evaluation_seconds": _size,
    "model_parameters": _whole, "guide_parameters": _whole, "in_words": _texts,
}  # fmt: skip
"""Fields that are in no group."""

DATA: dict[str, Check] = {"name": _text, "binarization": _text, "content_hash": _text, "seed": _seed}
"""Of the data."""

FACTS: dict[str, Check] = {
    "bound": _truth, "larger_family": _truth, "family": _text, "evidence_source": _text, "disagreement": _text,
    "active_units": _whole, "most_active": _units, "khat_threshold": _number, "median_ess": _number,
    "latent_dim": _whole, "threshold": _number, "acceptance": _number, "converged": _truth, "calibrated": _truth,
}  # fmt: skip
"""Facts that tables, figures and cautions read, null where they say nothing; those that begin with ``num_`` are whole
numbers."""


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
        data = fields.fields("data")
        for name, check in DATA.items():
            check(_there(data, name), name)
        environment = fields.fields("environment")
        for name in environment.values:
            _plain(environment, name)
        measured = fields.fields("measured")
        for evaluation in CORE:
            measured.fields(evaluation)
        for evaluation in measured.values:
            _check_summary(measured.fields(evaluation), evaluation)
    except RunError as error:
        raise RunError(f"{error} Remove the file: it is measured again.") from error


def _check_summary(summary: Fields, evaluation: str) -> None:
    """Check the estimates and facts of an evaluation."""
    result = result_class(evaluation)
    required = [] if result is None else [field.name for field in dataclasses.fields(result) if field.type is Estimate]
    for name in (*required, *CORE.get(evaluation, ())):
        summary.fields(name).number("mean")
    for name, value in summary.values.items():
        if isinstance(value, Mapping) and "mean" in value:
            estimate = summary.fields(name)
            for key, check in ESTIMATE.items():
                check(_there(estimate, key), key)
        elif value is not None and (name in FACTS or name.startswith("num_")):
            FACTS.get(name, _whole)(summary, name)


def _there(fields: Fields, name: str) -> Fields:
    if name not in fields.values:
        raise RunError(f"{fields.where}: `{name}` is missing.")
    return fields
