"""Evaluations by name: the functions of `pyro_vae.evaluation` that take a model or a guide and return estimates."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, get_args, get_type_hints

from pyro_vae import evaluation
from pyro_vae.evaluation import Estimate, Result
from pyro_vae.parts import installed_object, own_object
from pyro_vae.runtime.installed import installed, package_of
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.reading import shown
from pyro_vae.runtime.trust import require_trusted
from pyro_vae.runtime.user_code import told
from pyro_vae.runtime.wording import did_you_mean

PAIR = ("model", "guide", "x")
"""Parameters for a fitted pair and its test data."""

LABELLED = ("train_x", "train_labels", "test_x", "test_labels")
"""Parameters for data with labels."""

OF_THE_CELL = ("seed", "progress", "compile")
"""Parameters that are the same for all evaluations of a cell, and are no options of a single one."""

CORE = ("elbo_terms", "log_likelihood", "active_units")
"""Evaluations that every run has, on all of its test images."""

NUM_TEST = "num_test"
"""An option that every evaluation has in text: how many test images it measures, from the first on."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of parameters that get no argument."""


@dataclass(frozen=True)
class Evaluation:
    """A function that measures a fitted pair."""

    name: str
    """Name of the function."""
    function: Callable[..., Any]
    result: type
    """Class of its result: a subclass of :class:`Result`, or :class:`Estimate`."""
    needs: Mapping[str, str]
    """Required parameters that take the result of another evaluation, each with the name of that evaluation."""
    takes: Mapping[str, str]
    """The same for parameters with a default."""
    options: tuple[str, ...]
    """Parameters that text can set, as in ``ais(num_chains=4)``."""

    @property
    def help(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0].rstrip(".")

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its function, by name."""
        return inspect.signature(self.function).parameters

    @property
    def needs_labels(self) -> bool:
        """Whether it needs data with labels."""
        return any(name in LABELLED for name in self.parameters)

    def measure(
        self, inputs: Mapping[str, Any], options: Mapping[str, Any], *, seed: int, progress: bool | None, compile: str
    ) -> Any:
        """Call the function, and return its result.

        Args:
            inputs: arguments by name: the pair, data, and results of other evaluations. A parameter with a default gets
                its argument only if the option of this name is True, as in ``ais(guide=True)``.
            options: of the function.
            seed: of all noise.
            progress: show a bar; None shows it on a terminal only.
            compile: how log-weights are computed.

        Raises:
            ValueError: the result is not of the annotated class.
        """
        of_the_cell = {"seed": seed, "progress": progress, "compile": compile}
        arguments: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            wanted = parameter.default is parameter.empty or options.get(name) is True or name in self.takes
            if name in of_the_cell:
                arguments[name] = of_the_cell[name]
            elif name in inputs and wanted:
                arguments[name] = inputs[name]
            elif name in options:
                arguments[name] = options[name]
        # Functions without a seed draw from the global generator.
        with seeded(seed):
            result = self.function(**arguments)
        if not isinstance(result, self.result):
            raise ValueError(f"{self.name} must return a {self.result.__name__}, as annotated; got {shown(result)}.")
        return result


def evaluations() -> dict[str, Evaluation]:
    """Return all evaluations by name: the package's own, then those that installed packages declare.

    Those that cannot be used are left out with a warning; :func:`unusable` says why.

    >>> evaluations()["ais"].options[:2], evaluations()["guide_error"].needs
    (('guide', 'num_temperatures'), {'reference': 'reference_posterior'})
    """
    return _packaged() | _declared(installed("evaluations"))[0]


def unusable() -> dict[str, str]:
    """Return why evaluations that installed packages declare cannot be used, by name."""
    return _declared(installed("evaluations"))[1]


@cache
def _packaged() -> dict[str, Evaluation]:
    """Return the package's own evaluations, in the order of their package's ``__all__``."""
    results = {name: _result_of(getattr(evaluation, name)) for name in evaluation.__all__}
    results_of_pairs = {name: result for name, result in results.items() if result is not None}
    by_result = _names_by_result(results_of_pairs)
    return {name: _described(getattr(evaluation, name), kind, by_result) for name, kind in results_of_pairs.items()}


@cache
def _declared(points: tuple[EntryPoint, ...]) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Import the evaluations of entry points; return them by name, and why others cannot be used."""
    known: dict[str, Evaluation] = {}
    refused = {}
    for point in points:
        where = f"evaluation {point.name}, of the installed package {package_of(point)}:"
        try:
            if point.name in _packaged() or point.name in known:
                raise ValueError(f"{where} the name is taken; rename the entry point, or uninstall the package.")
            function = installed_object(point, where)
            known[point.name] = replace(_own(function, f"{where} {point.value}"), name=point.name)
        except ValueError as error:
            refused[point.name] = str(error)
            warnings.warn(f"{error} It is left out.", stacklevel=2)
    return known, refused


def find_evaluation(name: str) -> Evaluation:
    """Return an evaluation by its name, or a function of your own: ``path/to/file.py:function``.

    Raises:
        ValueError: there is no evaluation of that name, and the nearest is suggested; or the function is none.
        RunError: a file names a function that is not the package's, and the user does not trust the file.
    """
    if ":" in name:
        require_trusted(name)
        return _own(own_object("measure", name, inspect.isfunction), name)
    known = evaluations()
    if name not in known:
        if name in unusable():
            raise ValueError(unusable()[name])
        raise ValueError(
            f"there is no evaluation {name!r}.{did_you_mean(name, known)} There are {', '.join(sorted(known))}; your "
            f"own is path/to/file.py:function or package.module:function."
        )
    return known[name]


def _own(function: Any, where: str) -> Evaluation:
    """Return a user's function as an evaluation.

    Raises:
        ValueError: the function is no evaluation, or has the name of one of the package's.
    """
    try:
        result = _result_of(function)
    except Exception as error:
        # Annotations are evaluated here, and may name anything.
        raise ValueError(f"{where}: its annotations cannot be read: {told(error)}.") from error
    if result is None:
        raise ValueError(
            f"{where} is no evaluation: it must be a function that takes model, guide or x, whose return annotation "
            f"is Estimate or a subclass of Result (pyro_vae.evaluation)."
        )
    if function.__name__ in _packaged():
        raise ValueError(f"{where} has the name of one of the package's evaluations: rename it.")
    described = _described(function, result, _names_by_result({name: own.result for name, own in _packaged().items()}))
    takes = (*PAIR, *LABELLED, *OF_THE_CELL, *described.needs, *described.options)
    for name, parameter in described.parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ValueError(f"{where}: `{name}` is positional-only, and is passed by name: leave out the `/`.")
        if parameter.default is parameter.empty and name not in takes and parameter.kind not in VARIADIC:
            raise ValueError(f"{where}: nothing can be given to `{name}`: give it a default.")
    return described


def _result_of(function: Any) -> type | None:
    """Return the annotated class of an evaluation's result; None if the function is no evaluation."""
    if not inspect.isfunction(function):
        return None
    result = get_type_hints(function).get("return")
    takes_a_pair = any(name in (*PAIR, *LABELLED) for name in inspect.signature(function).parameters)
    return result if takes_a_pair and _is_result(result) else None


def _names_by_result(results: Mapping[str, type]) -> dict[type, str]:
    """Return the names of evaluations by the classes of their results; a plain estimate tells none from another."""
    return {result: name for name, result in results.items() if result is not Estimate}


def _is_result(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Result | Estimate)


def result_class(name: str) -> type[Result] | None:
    """Return the class of an evaluation's result; None for a plain estimate, or if it is not installed here."""
    known = _packaged().get(name) or evaluations().get(name)
    return known.result if known is not None and issubclass(known.result, Result) else None


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option that an evaluation does not have, or for a missing one that it requires."""
    evaluation = find_evaluation(name)
    known = [*evaluation.options, NUM_TEST]
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"evaluation {name} has no option {option!r}.{did_you_mean(option, known)} It has "
                f"{', '.join(sorted(known))}."
            )
        if option == NUM_TEST and name in CORE:
            raise ValueError(
                f"evaluation {name} measures all test images of a run: set num_test for the run, not for it alone."
            )
        if option == NUM_TEST and (type(value) is not int or value < 1):
            raise ValueError(f"evaluation {name}: num_test must be a whole number of at least 1; got {value!r}.")
    for option in evaluation.options:
        if option not in options and evaluation.parameters[option].default is inspect.Parameter.empty:
            raise ValueError(f"evaluation {name} needs the option {option!r}: write {name}({option}=...).")


def _described(function: Callable[..., Any], result: type, by_result: Mapping[type, str]) -> Evaluation:
    """Return the evaluation that the signature of a function describes.

    Args:
        function: the evaluation.
        result: class of its result.
        by_result: names of the package's evaluations, by the classes of their results.
    """
    hints = get_type_hints(function)
    needs: dict[str, str] = {}
    takes: dict[str, str] = {}
    options = []
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is parameter.empty
        results = [kind for kind in get_args(hints.get(name)) or (hints.get(name),) if _is_result(kind)]
        known = [by_result[kind] for kind in results if kind in by_result]
        is_input = name in (*OF_THE_CELL, *LABELLED) or (name in PAIR and required)
        if known:
            (needs if required else takes)[name] = known[0]
        # Text can set neither another result, as `evidence`, nor where files go.
        elif not (is_input or results or name == "out" or parameter.kind in VARIADIC):
            options.append(name)
    return Evaluation(function.__name__, function, result, needs, takes, tuple(options))
