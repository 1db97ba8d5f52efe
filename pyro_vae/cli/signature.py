"""Turn the parameters of a function or class into flags, by its signature and docstring."""

import argparse
import contextlib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

from pyro_vae.cli.values import read_value, words_as_list
from pyro_vae.cli.wording import in_text, in_words, is_list, is_union, plain

REQUIRED = inspect.Parameter.empty

METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


@dataclass(frozen=True)
class Option:
    """A parameter that a flag can set."""

    name: str
    kind: Any
    """Its type."""
    default: Any
    """:data:`REQUIRED` if it has none."""
    help: str
    metavar: str | None = None

    def add(self, group: argparse._ActionsContainer, prefix: str = "", default: str | None = None) -> None:
        """Add its flag.

        Args:
            group: of the parser.
            prefix: of the flag's name.
            default: words for its default, if that is not the parameter's own.
        """
        if default is None and self.default is REQUIRED:
            default = "required"
        elif default is None and self.default not in (None, (), ""):
            default = f"default: {in_text(self.default)}"
            default += f"; --{prefix}no_{self.name} turns it off" if self.default is True else ""
        help = self.help.rstrip(".") + (f" ({default})" if default else "")
        settings: dict[str, Any] = {"help": help.strip().replace("%", "%%"), "metavar": self.metavar or self._metavar()}
        if self._is_switch:
            settings |= {"nargs": "?", "const": "true"}
        elif is_list(self.kind):
            settings["nargs"] = "+"
        group.add_argument(f"--{prefix}{self.name}", action=_Read, option=self, **settings)
        if self._is_switch:
            group.add_argument(
                f"--{prefix}no_{self.name}", action="store_const", const=False, dest=f"{prefix}{self.name}",
                help=argparse.SUPPRESS,
            )  # fmt: skip

    def read(self, words: str | list[str], flag: str = "") -> Any:
        """Return the value that words on a command line stand for; a list as a tuple, as most defaults are.

        Raises:
            ValueError: the words stand for no value of the type.
        """
        text = words if isinstance(words, str) else words_as_list(words)
        try:
            value = read_value(text, self.kind)
        except (ValueError, OverflowError) as error:
            typed = text if isinstance(words, str) else " ".join(words)
            raise ValueError(f"{flag or self.name} must be {in_words(self.kind)}; got {typed!r}.") from error
        return tuple(value) if isinstance(value, list) else value

    @property
    def _is_switch(self) -> bool:
        return bool in (get_args(self.kind) if is_union(self.kind) else (self.kind,))

    def _metavar(self) -> str:
        kind = _main_type(self.kind)
        if is_list(kind):
            kind = _main_type(next(iter(get_args(kind)), Any))
        return METAVARS.get(kind, "VALUE")


class _Read(argparse.Action):
    """Puts an option's value into the namespace."""

    def __init__(self, *args: Any, option: Option, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.option = option

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Read the value."""
        setattr(namespace, self.dest, self.option.read(values, option_string))


def options_of(function: Callable[..., Any], skip: Collection[str] = ()) -> dict[str, Option]:
    """Return the parameters of a function or class that a command line can give.

    Parameters whose values only Python has are left out: modules, tensors, functions.

    >>> from pyro_vae.guides import LowRankGuide
    >>> option = options_of(LowRankGuide, skip=("x_shape",))["rank"]
    >>> option.default, option.help
    (1, 'columns of F, from 1 to latent_dim.')
    """
    parameters = inspect.signature(function).parameters
    kinds, words = _kinds(function), _words(function)
    options = {}
    for name, parameter in parameters.items():
        kind = kinds.get(name, Any)
        if kind is Any and parameter.default is not REQUIRED:
            kind = Union[type(parameter.default), Any]  # noqa: UP007 (Any is no operand of | in Python 3.11)
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_named and name not in skip and _is_plain(kind):
            options[name] = Option(name, kind, parameter.default, plain(words.get(name) or ""))
    return options


def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of parameters; if one cannot be resolved, all annotations as they are written."""
    called: Any = function.__init__ if inspect.isclass(function) else function
    try:
        return get_type_hints(called)
    except NameError:
        return dict(called.__annotations__)


def _words(function: Callable[..., Any]) -> dict[str, str | None]:
    """Return what the docstring of a function says of its parameters, or those of a class and of its parents."""
    owners = reversed(inspect.getmro(function)) if inspect.isclass(function) else (function,)
    words: dict[str, str | None] = {}
    for owner in owners:
        for documented in (owner, vars(owner).get("__init__")):
            with contextlib.suppress(docstring_parser.ParseError):
                parsed = docstring_parser.parse(getattr(documented, "__doc__", None) or "")
                words |= {parameter.arg_name: parameter.description for parameter in parsed.params}
    return words


def _is_plain(kind: Any) -> bool:
    """Whether text can stand for a value of a type."""
    origin, args = get_origin(kind), get_args(kind)
    if is_union(kind):
        return any(_is_plain(arg) for arg in args if arg is not NoneType)
    if origin is Literal or kind in (int, float, str, bool, Any):
        return True
    return (is_list(kind) or origin is dict) and all(_is_plain(arg) for arg in args if arg is not Ellipsis)


def _main_type(kind: Any) -> Any:
    """Return a type without None and Any, as ``int`` for ``int | None``; None if that leaves several or no types."""
    members = [member for member in (get_args(kind) if is_union(kind) else (kind,)) if member not in (NoneType, Any)]
    return members[0] if len(members) == 1 else None
