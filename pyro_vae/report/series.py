"""Configurations as the figures of a report show them: numbered, and the first ones in colours of their own."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_vae.comparison.comparison import Configuration
from pyro_vae.report.table import short

COLOURS = ("#3b7dd8", "#d9702b", "#2a9d72", "#cf4f8f", "#8a6fd1", "#a07a1f", "#2f93a5", "#cb4b4b")
"""Of the first configurations; each stands out from white and from near-black by 3 to 1 at least."""

OTHERS = "#808080"
"""The colour of all further ones: more than eight are not told apart by colour."""


@dataclass(frozen=True)
class Series:
    """A configuration as figures show it."""

    number: int
    """From 1, in the order of the report."""
    configuration: Configuration
    colour: str

    @property
    def name(self) -> str:
        """The configuration's, without folders."""
        return short(self.configuration.name)

    @property
    def label(self) -> str:
        """Number and name, in lines."""
        return "\n".join(textwrap.wrap(f"{self.number} {self.name}", 24))

    @property
    def highlighted(self) -> bool:
        """Whether it has a colour of its own."""
        return self.colour != OTHERS


def series_of(configurations: Sequence[Configuration]) -> list[Series]:
    """Return those of which a cell has finished, numbered, with their colours."""
    there = [one for one in configurations if one.results]
    colours = [*COLOURS, *[OTHERS] * len(there)]
    return [Series(number + 1, one, colours[number]) for number, one in enumerate(there)]
