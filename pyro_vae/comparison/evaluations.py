"""Evaluations by name: the functions of `pyro_vae.evaluation` that take a pair, or half of it, and return estimates."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from pyro_vae import evaluation
from pyro_vae.evaluation import Estimate, Result
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import did_you_mean

PAIR = ("model", "guide", "x")
"""Parameters that a fitted pair and its test data are passed to."""

LABELLED = ("train_x", "train_labels", "test_x", "test_labels")
"""Parameters that data with labels are passed to."""

OF_THE_CELL = ("seed", "progress", "compile")
"""Parameters that say how a cell computes, and are no options of a single evaluation."""

NUM_TEST = "num_test"
"""An option that every evaluation has in text: how many test images it measures, from the first on."""


@dataclass(frozen=True)
class Evaluation:
    """A function that measures a fitted pair."""

    name: str
    """The function's."""
    function: Callable[..., Any]
    result: type
    """What it returns: a subclass of :class:`Result`, or an :class:`Estimate`."""
    needs: Mapping[str, str]
    """Required parameters that take the result of another evaluation, with that one's name."""
    takes: Mapping[str, str]
    """Such parameters that need not be given."""
    options: tuple[str, ...]
    """Parameters that text can set, as in ``ais(num_chains=4)``."""

    @property
    def help(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0].rstrip(".")

    @property
    def needs_labels(self) -> bool:
        """Whether it needs data with labels."""
        return any(name in inspect.signature(self.function).parameters for name in LABELLED)

    def has(self, parameter: str) -> bool:
        """Whether its function has a parameter of this name."""
        return parameter in inspect.signature(self.function).parameters

    def measure(
        self, inputs: Mapping[str, Any], options: Mapping[str, Any], *, seed: int, progress: bool | None, compile: str
    ) -> Any:
        """Return its result.

        Args:
            inputs: what its parameters of these names are given: the pair, data, other evaluations' results. One that
                has a default is given only where an option says True, as ``ais(guide=True)``.
            options: of the function.
            seed: of all noise.
            progress: show a bar; None shows it on a terminal only.
            compile: how log-weights are computed.
        """
        of_the_cell = {"seed": seed, "progress": progress, "compile": compile}
        arguments: dict[str, Any] = {name: value for name, value in of_the_cell.items() if self.has(name)}
        for name, parameter in inspect.signature(self.function).parameters.items():
            asked = parameter.default is parameter.empty or options.get(name) is True or name in self.takes
            if name in inputs and asked:
                arguments[name] = inputs[name]
            elif name in options:
                arguments[name] = options[name]
        # What has no seed of its own draws from the global generator.
        with seeded(seed):
            return self.function(**arguments)


@cache
def evaluations() -> dict[str, Evaluation]:
    """Return all evaluations by name, in the order of their package's ``__all__``.

    >>> evaluations()["ais"].options[:2], evaluations()["guide_error"].needs
    (('guide', 'num_temperatures'), {'reference': 'reference_posterior'})
    """
    functions = {}
    for name in evaluation.__all__:
        function = getattr(evaluation, name)
        if inspect.isfunction(function):
            result = get_type_hints(function).get("return")
            given = [*PAIR, *LABELLED]
            if (
                inspect.isclass(result)
                and issubclass(result, Result | Estimate)
                and any(parameter in given for parameter in inspect.signature(function).parameters)
            ):
                functions[name] = function
    by_result = {get_type_hints(function)["return"]: name for name, function in functions.items()}
    return {name: _described(name, function, by_result) for name, function in functions.items()}


def find_evaluation(name: str) -> Evaluation:
    """Return an evaluation by its name.

    Raises:
        ValueError: there is none of that name; the nearest is suggested.
    """
    known = evaluations()
    if name not in known:
        raise ValueError(
            f"there is no evaluation {name!r}.{did_you_mean(name, known)} There are {', '.join(sorted(known))}."
        )
    return known[name]


def result_class(name: str) -> type[Result] | None:
    """Return what an evaluation returns; None of a plain estimate, or of an evaluation that is not installed here."""
    known = evaluations().get(name)
    return known.result if known is not None and issubclass(known.result, Result) else None


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that an evaluation does not have.

    Raises:
        ValueError: names them, and suggests the nearest.
    """
    known = [*find_evaluation(name).options, NUM_TEST]
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"evaluation {name} has no option {option!r}.{did_you_mean(option, known)} It has "
                f"{', '.join(sorted(known))}."
            )
        if option == NUM_TEST and (type(value) is not int or value < 1):
            raise ValueError(f"evaluation {name}: num_test must be a whole number of at least 1; got {value!r}.")


def _described(name: str, function: Callable[..., Any], by_result: Mapping[Any, str]) -> Evaluation:
    hints = get_type_hints(function)
    needs: dict[str, str] = {}
    takes: dict[str, str] = {}
    options = []
    for parameter in inspect.signature(function).parameters.values():
        kinds = get_args(hints[parameter.name]) or (hints[parameter.name],)
        other = next((by_result[kind] for kind in kinds if kind in by_result), None)
        if other is not None:
            (needs if parameter.default is parameter.empty else takes)[parameter.name] = other
        elif parameter.name not in (*OF_THE_CELL, *LABELLED, "out") and not (
            parameter.name in PAIR and parameter.default is parameter.empty
        ):
            options.append(parameter.name)
    return Evaluation(name, function, hints["return"], needs, takes, tuple(options))
