"""Give the configurations in the figures of a report their numbers and colours."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_vae.comparison.estimates import Configuration
from pyro_vae.report.table import short

COLOURS = ("#3b7dd8", "#d9702b", "#2a9d72", "#cf4f8f", "#8a6fd1", "#a07a1f", "#2f93a5", "#cb4b4b")
"""Colours of the first configurations; each has a contrast of at least 3 to 1 with white and with near-black."""

OTHERS = "#808080"
"""The colour of all further configurations: more than eight colours are hard to tell apart."""


@dataclass(frozen=True)
class Series:
    """A configuration with its number and colour in figures."""

    number: int
    """From 1, in the order of the report."""
    configuration: Configuration
    colour: str

    @property
    def name(self) -> str:
        """The configuration's name, without folders."""
        return short(self.configuration.name)

    @property
    def label(self) -> str:
        """Number and name, wrapped into lines."""
        return "\n".join(textwrap.wrap(f"{self.number} {self.name}", 24))

    @property
    def highlighted(self) -> bool:
        """Whether no other configuration has its colour."""
        return self.colour != OTHERS


def series_of(configurations: Sequence[Configuration]) -> list[Series]:
    """Return the configurations with a finished cell, with their numbers and colours."""
    finished = [configuration for configuration in configurations if configuration.results]
    colours = [*COLOURS, *[OTHERS] * len(finished)]
    return [Series(index + 1, configuration, colours[index]) for index, configuration in enumerate(finished)]
