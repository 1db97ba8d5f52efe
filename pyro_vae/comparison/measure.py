"""Measure a fitted pair by all evaluations that its cell asks for."""

import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.evaluations import CORE, NUM_TEST, find_evaluation
from pyro_vae.data import ImageData
from pyro_vae.data.image_data import Inputs, first_of
from pyro_vae.evaluation import Estimate, Result
from pyro_vae.programs.modules import as_args
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import with_message, with_place
from pyro_vae.runtime.wording import count, in_one_line

LITTLE = {
    "num_samples": 4, "evidence_samples": 2, "max_steps": 2, "num_temperatures": 2, "num_chains": 2, "num_leapfrog": 1,
    "burn_in": 0, "warmup": 1, "num_data": 2, "num_draws": 1, "ks": (1, 2),
}  # fmt: skip
"""Values of options with which an evaluation is rehearsed."""

FEW = 8
"""Number of test images on which a required evaluation is rehearsed; the others, which are slow, take two."""


@dataclass
class Measured:
    """The results of all evaluations of a cell, as :func:`measure_cell` returns them."""

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The numbers of each evaluation, by its name."""
    in_words: list[str] = field(default_factory=list)
    """A line for each evaluation."""
    failed_evaluations: dict[str, str] = field(default_factory=dict)
    """The error of each evaluation that measured nothing, in one line, by the evaluation's name."""
    per_datum: dict[str, Tensor] = field(default_factory=dict)
    """Numbers of each datum, each ``(N,)``, by ``EVALUATION.NAME``, with ``EVALUATION.NAME.standard_errors``."""

    def add(self, name: str, result: Any, num_data: int | None = None) -> None:
        """Add the result of an evaluation.

        Args:
            name: of the evaluation.
            result: an :class:`Estimate` or a :class:`Result`.
            num_data: number of images that were measured; the result has as many numbers at most.

        Raises:
            ValueError: the result has more numbers than images.
            TypeError: JSON cannot hold its facts.
        """
        is_result = isinstance(result, Result)
        values: dict[str, Tensor] = {}
        for key, estimate in (result.estimates if is_result else {name: result}).items():
            values[f"{name}.{key}"] = estimate.per_datum
            values[f"{name}.{key}.standard_errors"] = estimate.standard_errors
        values |= {f"{name}.{key}": tensor.double() for key, tensor in (result.tensors() if is_result else {}).items()}
        for place, tensor in values.items():
            if num_data is not None and len(tensor) > num_data:
                raise ValueError(f"{place} must have a number of each image, {num_data} at most; got {len(tensor)}.")
        summary = result.summary() if is_result else {name: Estimate.summary(result)}
        json.dumps(summary)
        # A class of results has words of its own, which say what they are of; a plain estimate does not know it.
        is_plain = type(result).__str__ is Estimate.__str__
        in_words = f"{name} {result}" if is_plain else str(result)
        self.summaries[name] = summary
        self.in_words.append(in_words)
        self.per_datum |= values


def measure_cell(
    cell: Cell, model: Any, guide: Any, data: ImageData, progress: bool | None = None, *,
    rehearsal_before: str | None = None,
) -> Measured:  # fmt: skip
    """Measure a pair by each evaluation of a cell, in the cell's order.

    An error of ELBO, log-likelihood or active units ends the measurement. If another evaluation raises an error, as one
    without a trusted reference does, the error is recorded, a line says that it measured nothing and why, and the
    others go on.

    Args:
        cell: the cell, with the settings of the measurement.
        model: p(x, z).
        guide: q(z | x).
        data: of the cell.
        progress: show bars; None shows them on a terminal only.
        rehearsal_before: what a rehearsal comes before, as "the fit", for messages. A rehearsal measures a few images
            with the fewest samples, and passes on the errors of all evaluations. Evaluations that need the result of
            another one are left out. None measures in full.

    Raises:
        ValueError: as for the evaluations.
        Exception: a rehearsal passes on any error of an evaluation; the message begins with the evaluation's name,
            unless it is one of those that every run has. An error of a full memory is always passed on.
    """
    rehearsal = rehearsal_before is not None
    measured, results = Measured(), dict[str, tuple[Any, int]]()
    compute: dict[str, Any] = {
        "seed": cell.seed, "progress": progress, "compile": "off" if rehearsal else cell.compile,
    }  # fmt: skip
    for name, options in cell.evaluations.items():
        evaluation = find_evaluation(name)
        options = dict(options)
        size = options.pop(NUM_TEST, None)
        required = name in CORE
        if rehearsal:
            if evaluation.needs:
                continue
            options |= {option: _less(options.get(option), value) for option, value in LITTLE.items()
                        if option in evaluation.options}  # fmt: skip
            size = min(FEW if required else 2, size or FEW)
        test = first_of(data.first(cell.num_test), size)
        num_data = len(as_args(test)[0])
        inputs: dict[str, Any] = {"model": model, "guide": guide, "x": test}
        for parameter, other in {**evaluation.needs, **evaluation.takes}.items():
            result, images = results.get(other, (None, 0))
            if images == num_data:
                inputs[parameter] = result
        try:
            for parameter, other in evaluation.needs.items():
                if parameter not in inputs:
                    raise ValueError(f"{name} needs the result of {other} on the same test images, which has none.")
            if evaluation.needs_labels:
                inputs |= _labelled(name, data, test, num_data)
            result = evaluation.measure(inputs, options, **compute)
            measured.add(evaluation.name, result, num_data)
            results[name] = result, num_data
        except Exception as error:
            # What every run measures fails by the pair, which the message names.
            if required or is_out_of_memory(error):
                raise
            if rehearsal:
                what = str(error).removeprefix(f"{evaluation.name}: ")
                # The package's evaluations begin with their name where they refuse an option, whatever the images are.
                if what != str(error) and ":" not in name:
                    raise
                tried = f"{evaluation.name}, tried on {count(num_data, 'image')} before {rehearsal_before}"
                raise with_message(error, f"{tried}: {what}") from error
            # Readers refuse a file with characters that steer a terminal.
            reason = "".join(filter(str.isprintable, with_place(in_one_line(error), error)))
            measured.failed_evaluations[evaluation.name] = reason
            measured.in_words.append(f"{evaluation.name} measured nothing: {reason}")
    return measured


def _less(asked: Any, little: Any) -> Any:
    """Return the smaller of an option's value and the value of a rehearsal.

    A value that is no number is returned unchanged, as the evaluation refuses it.
    """
    return little if asked is None or (isinstance(asked, int) and asked > little) else asked


def _labelled(name: str, data: ImageData, test: Inputs, num_data: int) -> dict[str, Any]:
    """Return training and test data with their labels; raise a ValueError if the data have none."""
    if data.train_labels is None or data.test_labels is None:
        raise ValueError(f"{name}: the data have no labels; {data.name} would have to bring them.")
    return {
        "train_x": data.observe(data.train), "train_labels": data.train_labels,
        "test_x": test, "test_labels": data.test_labels[:num_data],
    }  # fmt: skip
