"""Make a cell from flags, from the configuration of a run, or from both."""

import argparse
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pyro_vae.cli.part_flags import Part, options_given
from pyro_vae.cli.signature import Option, options_of
from pyro_vae.cli.usage import Parser, a_path
from pyro_vae.comparison.cell import MODEL_SETTINGS, Cell, canonical_name, with_sides
from pyro_vae.comparison.results import read_cell
from pyro_vae.errors import RunError
from pyro_vae.fit.run import CONFIG
from pyro_vae.parts import CHOICES, MLP, NETWORK, PARTS, SIDES, default_guide, parse_part, part_names
from pyro_vae.runtime.reading import read_yaml, shown
from pyro_vae.runtime.trust import names_from

DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Cell)}

FITTED_MODEL = (
    "run folder whose fitted model is taken unchanged, with its settings, so that only the guide is fitted (default: "
    "model and guide are fitted)"
)


def add_cell_flags(parser: Parser) -> None:
    """Add a flag for each setting of a cell."""
    parts = parser.add_argument_group("parts", "each NAME, or 'NAME(option=value)', or FILE.py:CLASS, or MODULE:CLASS")
    rest = parser.add_argument_group("settings")
    for name, option in options_of(Cell, skip=("fitted_model",)).items():
        if name in PARTS:
            _add_part(parts, option)
        else:
            option.add(rest)
    _add_part(parts, Option(NETWORK, str, None, "encoder and decoder, where these are not named themselves."))
    rest.add_argument("--fitted_model", type=a_path, metavar="RUN", help=FITTED_MODEL)


def _add_part(group: argparse._ActionsContainer, option: Option) -> None:
    names = ", ".join(part_names(option.name))
    replace(option, help=f"{option.help.rstrip('.')}: {names}", metavar="NAME").add(group)


def read_settings(path: Path, trust: bool = False, named: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings of a cell from a YAML file, from the configuration file of a run, or from a run folder.

    Args:
        path: of the file or the folder.
        trust: whether it may name classes that are not the package's; their files are then imported.
        named: classes that it may name without ``trust``, as the user has named them as well.

    Raises:
        RunError: it cannot be read, has no settings or wrong ones, or names a class that is not trusted.
    """
    file = path / CONFIG if path.is_dir() else path
    content = read_yaml(file, path if path.is_dir() else None)
    if isinstance(content, Mapping) and "recipe" in content and "format" in content:
        if file.name == CONFIG:
            return read_cell(file.parent, trust=trust, named=named).settings()
        content = content["recipe"]
    if not isinstance(content, Mapping):
        raise RunError(f"{file} must hold settings, as `guide: iaf`; it holds {shown(content)}.")
    try:
        with names_from(file, trust=trust, named=named):
            Cell.of(content)
            return with_sides(content)
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{file}: {error}") from error


def named_classes(known: argparse.Namespace) -> set[str]:
    """Return the names, as in a cell, of the user's own classes that flags name."""
    names = [parse_part(kind, getattr(known, kind))[0] for kind in CHOICES if getattr(known, kind, None)]
    names += [parse_part("measure", text)[0] for text in getattr(known, "measure", ())]
    return {canonical_name(name) for name in names if ":" in name}


def part_texts(known: argparse.Namespace, base: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of the part of each choice, and of the data: of a flag, else of the base, else the default."""
    texts = {kind: getattr(known, kind, None) or base.get(kind) or DEFAULTS[kind] for kind in (*PARTS, "data")}
    network: str = getattr(known, NETWORK, MLP)
    texts["guide"] = texts["guide"] or default_guide(texts["model"])
    if NETWORK in known:
        texts |= {side: getattr(known, side, network) for side in SIDES}
    # An empty name is no data.
    return {NETWORK: network, **texts} | ({"data": known.data} if "data" in known else {})


def cell_of(args: argparse.Namespace, base: Mapping[str, Any], parts: Mapping[str, Part]) -> Cell:
    """Return the cell of the flags; settings without a flag are those of the base."""
    chosen = (DEFAULTS.keys() | {NETWORK}) - {"fitted_model"}
    flags = {name: value for name, value in vars(args).items() if name in chosen}
    # The network of both sides comes first: a side's own options are added to those of the network.
    for kind in (NETWORK, *PARTS, "data"):
        options = options_given(args, kind)
        if options or kind in flags:
            of_network = kind in SIDES and kind not in flags and NETWORK in flags
            part = Part.of(kind, flags[NETWORK]) if of_network else parts[kind]
            flags[kind] = part.text_with(options)
    settings = {**base, **with_sides(flags)}
    if "fitted_model" in args:
        fitted_model = read_cell(args.fitted_model, trust=args.trust, named=named_classes(args))
        model = {name: value for name, value in fitted_model.settings().items() if name in MODEL_SETTINGS}
        settings = {**model, **settings, "fitted_model": fitted_model.settings()}
    return Cell.of(settings)


@contextmanager
def naming_network(args: argparse.Namespace) -> Iterator[None]:
    """Let errors name the options of ``--network`` where a side has its network from there."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        if NETWORK in args or options_given(args, NETWORK):
            for side in SIDES:
                if side not in args and not options_given(args, side):
                    message = message.replace(f"--{side}.", f"--{NETWORK}.")
        if message == str(error):
            raise
        raise type(error)(message) from error
