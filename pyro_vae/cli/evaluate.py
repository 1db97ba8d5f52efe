"""`pyro-vae evaluate`: a run that is there, measured with other samples, images or noise."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.cli.output import Output, finite, where_to
from pyro_vae.cli.runs import (
    Fitted,
    add_moved_data,
    add_run,
    add_trust,
    find_fitted_model,
    open_run,
    require_fitted,
    run_line,
    settings_of,
)
from pyro_vae.cli.signature import options_of
from pyro_vae.cli.usage import Parser, UsageError, a_path
from pyro_vae.cli.wording import in_text
from pyro_vae.comparison.cell import MEASUREMENT, Cell
from pyro_vae.comparison.evaluations import evaluations
from pyro_vae.comparison.measure import measure_cell
from pyro_vae.comparison.results import EVALUATION, is_finished, read_cell, read_result
from pyro_vae.comparison.run_cell import images_hash, load_data_of_run, run_cell
from pyro_vae.errors import RunError
from pyro_vae.fit.options import as_device
from pyro_vae.fit.parameters import owners_of
from pyro_vae.fit.run import read_config
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.parts import parse_part
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.files import alone_in, write_bytes

MEASURED = (*MEASUREMENT, "seed", "device")
"""Settings of a cell that another measurement may have otherwise."""

LONGEST_NAME = 120
"""Characters of a file's name, which most file systems have cut at 255 bytes."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    args = _parser().read(argv)
    path: Path = args.run
    cell = read_cell(path, trust=args.trust)
    require_fitted(path, cell)
    given = {name: value for name, value in vars(args).items() if name in MEASURED}
    wanted = replace(cell, **given)
    asked = _asked(args)
    if asked:
        others = [text for text in wanted.measure if parse_part("measure", text)[0] not in asked]
        wanted = replace(wanted, measure=(*others, *asked.values()))
    if wanted == cell and (args.out is None or is_finished(path, cell)):
        return _own(path, cell, args, output)
    if args.out is None and not os.access(path, os.W_OK):
        # Said before the work, and not after it.
        raise RunError(f"{path} cannot be written: name a file for the results with --out.")
    opened = open_run(args)
    output.note(f"{opened.run}")
    if asked:
        # What an evaluation refuses is said before anything is measured.
        measure_cell(wanted, opened.run.model, opened.run.guide, opened.data, False, rehearsal=True)
    content = {"run": str(path), "settings": settings_of(wanted, MEASURED), **_measure(opened, wanted, output)}
    given |= {"measure": wanted.measure} if asked else {}
    settings = {name: in_text(value) for name, value in given.items() if value != getattr(cell, name)}
    name = _in_a_file_name("evaluation," + ",".join(f"{name}={settings[name]}" for name in sorted(settings)))
    _write(args.out or path / f"{name}.json", content, output)
    output.give(content)
    return 0


def _asked(args: Any) -> dict[str, str]:
    """Return what flags ask to be measured: each evaluation's name with its options, as a cell has it, by name."""
    asked = {}
    for name in evaluations():
        options = getattr(args, name, None)
        if options is not None:
            asked[name] = f"{name}({options})" if options else name
            try:
                Cell(measure=(asked[name],))
            except ValueError as error:
                message = re.sub(rf"^{argument('measure')}: (evaluation {name}:? )?", "", str(error))
                raise UsageError(f"--{name}: {message}") from error
    return asked


def _in_a_file_name(text: str) -> str:
    """Return a text without what a file's name cannot hold; a long one ends in a hash.

    >>> _in_a_file_name("evaluation,measure=ais(num_test=2)"), _in_a_file_name("a/b 'c'")
    ('evaluation,measure=ais(num_test=2)', 'a-b-c-')
    """
    name = re.sub(r"[^\w.,=()\[\]-]+", "-", text)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _write(file: Path, content: dict[str, Any], output: Output) -> None:
    with where_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, (json.dumps(finite(content), indent=2) + "\n").encode())
    output.note(f"Written to {file}")


def _parser() -> Parser:
    parser = Parser(
        "evaluate",
        "RUN [flags]",
        "Measure a run again on the test images: the ELBO and the importance-weighted log-likelihood, in nats a datum. "
        f"What other settings than the run's own find is written beside RUN/{EVALUATION}, into a file that is named "
        "after them.",
    )
    add_run(parser)
    group = parser.add_argument_group("settings")
    for name, option in options_of(Cell).items():
        if name in MEASURED:
            what = "of the noise" if name == "seed" else option.help
            replace(option, help=what).add(group, default="default: the run's own")
    what = "each for all test images, or with options: --ais 'num_test=20, num_chains=4'"
    asked = parser.add_argument_group("evaluations", what)
    for name, evaluation in evaluations().items():
        asked.add_argument(
            f"--{name}", nargs="?", const="", default=None, metavar="OPTIONS", help=evaluation.help.replace("%", "%%")
        )
    help = "run whose model was taken over, where it is not beside this one"
    group.add_argument("--fitted_model", type=a_path, metavar="RUN", help=help)
    help = "file to write to, in place of one in RUN"
    group.add_argument("--out", type=a_path, metavar="FILE", default=None, help=help)
    add_moved_data(group)
    add_trust(group)
    parser.add_switches()
    return parser


def _own(path: Path, cell: Cell, args: Any, output: Output) -> int:
    """Say what a run's own settings found, and measure it first where that was not done yet."""
    if is_finished(path, cell):
        if args.data is not None:
            require_same_data(read_config(path)["data"], load_data_of_run(path, cell, args.data), path)
        output.note(f"Measured with these settings before: {path / EVALUATION}")
        result = read_result(path, cell)
    else:
        fitted_model = find_fitted_model(cell, getattr(args, "fitted_model", None), [path.resolve().parent], args.trust)
        data = load_data_of_run(path, cell, args.data)
        with where_to(path), alone_in(path):
            result = run_cell(cell, path, data=data, fitted_model=fitted_model, progress=output.progress)
    output.say(run_line(result))
    for line in result.evaluation["in_words"]:
        output.say(line)
    content = {"run": str(path), **result.evaluation, "settings": settings_of(cell, MEASURED)}
    if args.out is not None:
        _write(args.out, content, output)
    output.give(content)
    return 0


def _measure(opened: Fitted, wanted: Cell, output: Output) -> dict[str, Any]:
    """Measure a pair, and say what was found."""
    run, data = opened.run, opened.data
    for module in owners_of(run.model, run.guide).values():
        module.to(as_device(wanted.device))
    measured = measure_cell(wanted, run.model, run.guide, data, output.progress)
    for line in measured.in_words:
        output.say(line)
    return {
        "data": run.data,
        "test_images": images_hash(data.test_images[: wanted.num_test]),
        "measured": measured.summaries,
        "in_words": measured.in_words,
    }
