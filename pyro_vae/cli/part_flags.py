"""The flags of a chosen part: the parameters of its constructor, without those that the pair sets."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyro_vae.cli.output import HelpWanted
from pyro_vae.cli.signature import REQUIRED, Option, options_of
from pyro_vae.cli.usage import Parser
from pyro_vae.cli.wording import summary
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.data_text import canonical_data, data_text, parse_data
from pyro_vae.data import source_type
from pyro_vae.parts import CHOICES, check_options, find_part, kind_of, parse_part
from pyro_vae.runtime.wording import did_you_mean


@dataclass(frozen=True)
class Part:
    """A chosen part, with the values of the options in its text."""

    kind: str
    name: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, text: str) -> "Part":
        """Return the part of ``NAME`` or ``NAME(option=value, ...)``.

        Raises:
            ValueError: there is no such part, or it has no such option.

        >>> Part.of("guide", "iaf(num_flows=2)").text_with({"context_dim": 10})
        'iaf(num_flows=2, context_dim=10)'
        """
        check_options(kind, text)
        return cls(kind, *parse_part(kind, text))

    @cached_property
    def type(self) -> type:
        """Its class."""
        return find_part(self.kind, self.name)

    @cached_property
    def options(self) -> dict[str, Option]:
        """The parameters that flags can set."""
        return options_of(self.type, skip=kind_of(self.kind).offered)

    def refuses(self, option: str) -> str:
        """Return why there is no flag for an option."""
        if option in kind_of(self.kind).offered:
            flag = f": --{option} sets it" if hasattr(Cell, option) else ""
            return f"--{self.kind} {self.name}: {option} is the pair's, and no option{flag}."
        try:
            check_options(self.kind, self.text_with({option: None}))
        except ValueError as error:
            return str(error)
        return f"--{self.kind} {self.name}: {option} can be given in Python only."

    def add_flags(self, parser: Parser) -> None:
        """Add the flags of its options."""
        if not self.options:
            return
        group = parser.add_argument_group(f"options of {self.kind} {self.name}", summary(self.type))
        for option in self.options.values():
            option.add(group, f"{self.kind}.")

    def text_with(self, options: Mapping[str, Any]) -> str:
        """Return the text of the part with further options, which override those that it has."""
        settings = {**self.settings, **options}
        inside = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{self.name}({inside})" if inside else self.name

    def help(self) -> str:
        """Return the help text of the part."""
        parser = Parser("fit", f"--{self.kind} {self.name} [flags]", "")
        parser.usage = argparse.SUPPRESS
        name = "" if self.type.__name__ == self.name.rpartition(":")[2] else f" ({self.type.__name__})"
        about = "\n\n".join(filter(None, [f"{self.kind} {self.name}{name}", summary(self.type)]))
        if not self.options:
            return f"{about}\n\nIt has no options."
        self.add_flags(parser)
        example = next((o for o in self.options.values() if o.default not in (REQUIRED, None)), None)
        text = parser.format_help().strip().partition("\n\n")[2].rstrip()
        short = f"\n\nOr in one: --{self.kind} {_in_quotes(self.name, example)}" if example else ""
        return f"{about}\n\noptions:\n{text}{short}"


@dataclass(frozen=True)
class Data(Part):
    """Chosen data, with the values of the options in their text."""

    @classmethod
    def of(cls, kind: str, text: str) -> "Part":
        """Return the data of ``NAME`` or ``NAME(option=value, ...)``.

        Raises:
            ValueError: there is no such data set, or it has no such option.

        >>> Data.of("data", "gone.npz(values='real')").text_with({"tensors": ("library",)})
        "gone.npz(tensors=('library',), values='real')"
        """
        canonical_data(text)
        return cls(kind, *parse_data(text))

    @cached_property
    def type(self) -> Any:
        """The class that reads them."""
        return source_type(self.name)

    @cached_property
    def options(self) -> dict[str, Option]:
        """The options that flags can set."""
        return {name: option for name, option in options_of(self.type).items() if name in self.type.options}

    def refuses(self, option: str) -> str:
        """Return why there is no flag for an option."""
        flag = f": --{option} sets it" if hasattr(Cell, option) and option != "data" else ""
        known = f"It has {', '.join(self.options)}." if self.options else "It has none."
        hint = did_you_mean(option, self.options)
        return f"--data {self.name}: has no option {option!r}{flag}.{hint} {known}"

    def text_with(self, options: Mapping[str, Any]) -> str:
        """Return the text of the data with further options, which override those that it has."""
        return data_text(self.name, {**self.settings, **options})


FLAGGED = (*CHOICES, "data")
"""What has flags for its options."""


def part_of(kind: str, text: str) -> Part:
    """Return a chosen part, or the chosen data, of a text."""
    return Data.of(kind, text) if kind == "data" else Part.of(kind, text)


def _in_quotes(name: str, option: Option) -> str:
    """Return a part with an option as a shell takes it: the text of an option keeps its own quotes.

    >>> print(_in_quotes("mlp", Option("activation", str, "tanh", "")))
    "mlp(activation='tanh')"
    """
    text = f"{name}({option.name}={option.default!r})"
    return f'"{text}"' if "'" in text else f"'{text}'"


def add_part_help(parser: Parser) -> None:
    """Add the flags that ask for the help of one part."""
    group = parser.add_argument_group("help of one part")
    for kind in FLAGGED:
        what = f"the options of this {kind}, or of the chosen one" if kind != "data" else "the options of these data"
        group.add_argument(f"--{kind}.help", nargs="?", const="", metavar="NAME", help=what)


def show_part_help(known: argparse.Namespace, texts: Mapping[str, str]) -> None:
    """Show the help of a part if a flag asks for it.

    Args:
        known: flags.
        texts: of the chosen parts, by kind.

    Raises:
        HelpWanted: a flag asks for it.
    """
    for kind in FLAGGED:
        name = getattr(known, f"{kind}.help", None)
        if name is not None:
            raise HelpWanted(part_of(kind, name or texts[kind]).help())


def options_given(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the options of a kind of part that flags set."""
    prefix = f"{kind}."
    return {name.removeprefix(prefix): value for name, value in vars(args).items() if name.startswith(prefix)}
