"""The format of ``evaluation.json``: each field with its type. All fields are checked whenever the file is read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pyro_vae.comparison.evaluations import CORE, result_class
from pyro_vae.errors import RunError
from pyro_vae.evaluation import Estimate
from pyro_vae.runtime.reading import Fields

Check = Callable[[Fields, str], object]
"""Raises a RunError if the field of a name is missing or of another type."""


def _or_null(check: Check) -> Check:
    """Return a check that allows null, but not a missing field."""
    return lambda fields, name: check(fields, name) if fields.has(name) or name not in fields.values else None


def _size(fields: Fields, name: str) -> None:
    """Check a number of at least 0, as errors and times are; it may be NaN."""
    if fields.number(name) < 0:
        raise fields.error(name, "a number from 0")


def _truth(fields: Fields, name: str) -> None:
    if not isinstance(fields.values[name], bool):
        raise fields.error(name, "true or false")


def _units(fields: Fields, name: str) -> None:
    """Check a list of latent units, or a list for each site."""
    value = fields.values[name]
    for units in value.values() if isinstance(value, Mapping) else [value]:
        if not isinstance(units, list) or not all(type(unit) is int and unit >= 0 for unit in units):
            raise fields.error(name, "a list of units, or one for each site")


def _plain(fields: Fields, name: str) -> None:
    if not isinstance(fields.values[name], str | int | float | None):
        raise fields.error(name, "a number or a text")


def _texts_by_name(fields: Fields, name: str) -> None:
    """Check a mapping from names to texts, which files of earlier versions do not have."""
    if name in fields.values:
        texts = fields.fields(name)
        for key in texts.values:
            texts.text(key)


ESTIMATE: dict[str, Check] = {
    "mean": _or_null(Fields.number), "standard_error": _or_null(_size), "data_standard_error": _or_null(_size),
    "num_data": Fields.whole, "num_left_out": Fields.whole, "unit": Fields.text,
}  # fmt: skip
"""Fields of each estimate."""

REQUIRED = {"log_likelihood": ("log_likelihood", "khat_above")}
"""Estimates that an evaluation always has, besides the fields of its result."""

TOP: dict[str, Check] = {
    "epochs": Fields.whole, "compiled": Fields.text, "test_images": Fields.text, "fit_seconds": _size,
    "evaluation_seconds": _size, "model_parameters": Fields.whole, "guide_parameters": Fields.whole,
    "in_words": Fields.texts, "failed_evaluations": _texts_by_name,
}  # fmt: skip
"""Fields at the top level."""

DATA: dict[str, Check] = {
    "name": Fields.text, "binarization": Fields.text, "content_hash": Fields.text,
    "seed": lambda fields, name: fields.whole(name, least=-(2**63)),
}  # fmt: skip
"""Fields of the data."""

FACTS: dict[str, Check] = {
    "bound": _truth, "larger_family": _truth, "family": Fields.text, "evidence_source": Fields.text,
    "disagreement": _or_null(Fields.text), "active_units": _or_null(Fields.whole), "most_active": _or_null(_units),
    "khat_threshold": Fields.number, "median_ess": Fields.number, "latent_dim": Fields.whole,
    "threshold": Fields.number, "acceptance": Fields.number, "converged": _truth, "calibrated": _truth,
    "num_dims": _or_null(Fields.whole),
}  # fmt: skip
"""Facts that tables, figures and cautions read. All others that begin with ``num_`` are whole numbers."""


def check_evaluation(content: Mapping[str, Any], where: str) -> None:
    """Refuse results with a field that is missing or of the wrong type.

    Args:
        content: of ``evaluation.json``.
        where: the file, for the message.

    Raises:
        RunError: a field is missing or wrong; the message names the file and the field.
    """
    fields = Fields.of(content, where)
    try:
        for group, checks in ((fields, TOP), (fields.fields("data"), DATA)):
            for name, check in checks.items():
                check(group, name)
        environment = fields.fields("environment")
        for name in environment.values:
            _plain(environment, name)
        measured = fields.fields("measured")
        for evaluation in dict.fromkeys([*CORE, *measured.values]):
            _check_summary(measured.fields(evaluation), evaluation)
    except RunError as error:
        raise RunError(f"{error} Remove the file: it is measured again.") from error


def _check_summary(summary: Fields, evaluation: str) -> None:
    """Check the estimates of an evaluation, and also its facts if it is not of the user's own."""
    result = result_class(evaluation)
    required = [] if result is None else [field.name for field in dataclasses.fields(result) if field.type is Estimate]
    for name in (*required, *REQUIRED.get(evaluation, ())):
        summary.fields(name).number("mean")
    for name, value in summary.values.items():
        if isinstance(value, Mapping) and "mean" in value:
            estimate = summary.fields(name)
            for key, check in ESTIMATE.items():
                check(estimate, key)
        elif result is not None and (name in FACTS or name.startswith("num_")):
            FACTS.get(name, Fields.whole)(summary, name)
