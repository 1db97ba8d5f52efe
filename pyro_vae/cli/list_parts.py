"""`pyro-vae list`: name the available parts and data sets."""

from collections.abc import Sequence
from typing import Any

from pyro_vae.cli.output import Output
from pyro_vae.cli.usage import Parser
from pyro_vae.cli.wording import citation, summary
from pyro_vae.comparison.evaluations import evaluations, unusable
from pyro_vae.data import DATASETS
from pyro_vae.parts import KINDS, find_part, own_parts, part_names
from pyro_vae.runtime.wording import did_you_mean

LISTS = {f"{kind}s": kind for kind in KINDS} | {"evaluations": "evaluation", "data": "data"}


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser(
        "list",
        f"[{'|'.join(LISTS)}]",
        "Name the available parts and data sets, one a line. `pyro-vae fit --guide.help NAME` lists the "
        "options of a guide, and so for the other parts.",
    )
    parser.add_argument("what", nargs="?", metavar="WHAT", help=f"one of {', '.join(LISTS)}; all unless given")
    help = "the package's own parts as the README's table, in Markdown"
    parser.add_argument("--markdown", action="store_true", help=help)
    args = parser.read(argv)
    what = getattr(args, "what", None)
    if what is not None and what not in LISTS:
        hint = did_you_mean(what, LISTS, quoted=False)
        raise ValueError(f"there is no list of {what!r}.{hint} There are {', '.join(LISTS)}.")
    shown = LISTS if what is None else [what]
    if "markdown" in args:
        rows = [row for name in shown for row in _rows(LISTS[name])]
        output.text("\n".join(["| part | in Python | what |", "|---|---|---|", *rows]))
        return 0
    lists = {name: _list(LISTS[name]) for name in shown}
    for name, entries in lists.items():
        if what is None:
            output.say(f"{name}:")
        width = max(map(len, entries))
        for entry, sentence in entries.items():
            output.say(f"{'' if what else '  '}{entry:<{width}}  {sentence}")
    output.give(lists)
    return 0


def _list(kind: str) -> dict[str, str]:
    """Return the parts of a kind by name, each with its first sentence, or with why an installed one cannot be used."""
    if kind == "evaluation":
        return {name: known.help for name, known in evaluations().items()} | unusable()
    if kind == "data":
        return {name: summary(type(source)) for name, source in DATASETS.items()}
    sentences = {}
    for name in part_names(kind):
        try:
            sentences[name] = summary(find_part(kind, name))
        except ValueError as error:
            sentences[name] = str(error)
    return sentences


def _rows(kind: str) -> list[str]:
    """Return a row of a Markdown table for each of the package's own parts of a kind, with its first reference."""
    parts: dict[str, tuple[Any, str]]
    if kind == "data":
        parts = {name: (type(source), f'load_data("{name}")') for name, source in DATASETS.items()}
    elif kind == "evaluation":
        functions = [evaluation.function for evaluation in evaluations().values()]
        ours = [function for function in functions if function.__module__.startswith("pyro_vae.")]
        parts = {function.__name__: (function, f"evaluation.{function.__name__}") for function in ours}
    else:
        package = KINDS[kind].package.removeprefix("pyro_vae.")
        parts = {name: (cls, f"{package}.{cls.__name__}") for name, cls in own_parts(kind).items()}
    rows = []
    for name, (part, python) in parts.items():
        reference = citation(part)
        what = summary(part).removesuffix(".") + (f" ({reference})" if reference else "")
        rows.append(f"| {kind} `{name}` | `{python}` | {what.replace('|', chr(92) + '|')} |")
    return rows
