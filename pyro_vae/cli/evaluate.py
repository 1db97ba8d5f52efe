"""`pyro-vae evaluate`: measure a run again, with other samples, images or noise."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae.cli.output import Output, finite, where_to
from pyro_vae.cli.runs import add_run, find_fitted_model, lines_of, open_run, require_fitted
from pyro_vae.cli.signature import options_of
from pyro_vae.cli.usage import Parser
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
"""Settings of a cell that a second measurement may change."""

EVALUATIONS = "evaluation "
"""Prefix of an evaluation's name in the namespace of flags, where the bare name may be that of another flag."""

LONGEST_NAME = 120
"""Characters of a file's name before its hash; most file systems allow 255 bytes."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    args = _parser().read(argv)
    path, out = args.run, args.out
    cell = read_cell(path, trust=args.trust)
    require_fitted(path, cell)
    wanted = replace(cell, **{name: value for name, value in vars(args).items() if name in MEASURED})
    requested = _requested_evaluations(args)
    if requested:
        others = [text for text in wanted.measure if parse_part("measure", text)[0] not in requested]
        wanted = replace(wanted, measure=(*others, *requested.values()))
    if wanted == cell and (out is None or is_finished(path, cell)):
        content = _results_of_run(path, cell, args, output)
    else:
        # Checked before the work, so that the results are not lost.
        if out is None and not os.access(path, os.W_OK):
            raise RunError(f"{path} cannot be written: name a file for the results with --out.")
        content = _measured(args, wanted, output)
        out = out or path / _file_name(cell, wanted)
    if out is not None:
        with where_to(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(out, (json.dumps(finite(content), indent=2) + "\n").encode())
        output.note(f"Written to {out}")
    output.give(content)
    return 0


def _requested_evaluations(args: Any) -> dict[str, str]:
    """Return the evaluations that have a flag, by name, each in the form ``NAME(option=value)`` of a cell."""
    requested = {}
    for name in evaluations():
        options = getattr(args, f"{EVALUATIONS}{name}", None)
        if options is not None:
            requested[name] = f"{name}({options})" if options else name
            try:
                Cell(measure=(requested[name],))
            except ValueError as error:
                message = re.sub(rf"^{argument('measure')}: (evaluation {name}:? )?", "", str(error))
                raise ValueError(f"{_flag(name)}: {message}") from error
    return requested


def _flag(name: str) -> str:
    """Return the flag of an evaluation.

    >>> _flag("ais"), _flag("of-corners")
    ('--ais', '--of_corners')
    """
    return f"--{name.replace('-', '_')}"


def _file_name(cell: Cell, wanted: Cell) -> str:
    """Return the name of the file for settings that differ from those of the run; a long name ends in a hash.

    >>> _file_name(Cell(), Cell(measure=["ais(num_test=2)"], seed=3))
    'evaluation,measure=ais(num_test=2),seed=3.json'
    """
    changed = [name for name in sorted(MEASURED) if getattr(wanted, name) != getattr(cell, name)]
    text = ",".join(["evaluation", *(f"{name}={in_text(getattr(wanted, name))}" for name in changed)])
    name = re.sub(r"[^\w.,=()\[\]-]+", "-", text)
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{name}.json"


def _parser() -> Parser:
    parser = Parser(
        "evaluate",
        "RUN [flags]",
        "Measure a run again on the test images: the ELBO and the importance-weighted log-likelihood, in nats a datum. "
        f"Results with other settings than the run's own are written beside RUN/{EVALUATION}, into a file that is "
        "named after these settings.",
    )
    group = parser.add_argument_group("settings")
    for name, option in options_of(Cell).items():
        if name in MEASURED:
            what = "of the noise" if name == "seed" else option.help
            replace(option, help=what).add(group, default="default: the run's own")
    add_run(parser, group, "FILE", "file to write to, in place of one in RUN")
    what = "each for all test images, or with options: --ais 'num_test=20, num_chains=4'"
    group = parser.add_argument_group("evaluations", what)
    for name, evaluation in evaluations().items():
        # An evaluation whose flag is taken can be requested by --measure.
        if not parser.has_flag(_flag(name)):
            words = evaluation.help.replace("%", "%%")
            group.add_argument(_flag(name), dest=EVALUATIONS + name, nargs="?", const="", metavar="OPTIONS", help=words)
    return parser


def _results_of_run(path: Path, cell: Cell, args: Any, output: Output) -> dict[str, Any]:
    """Return the results with the run's own settings, and measure the run first if that was not done yet."""
    if is_finished(path, cell):
        if args.data is not None:
            require_same_data(read_config(path)["data"], load_data_of_run(path, cell, args.data), path)
        output.note(f"Measured with these settings before: {path / EVALUATION}")
        result = read_result(path, cell)
    else:
        fitted_model = find_fitted_model(cell, args.fitted_model, [path.resolve().parent], args.trust)
        data = load_data_of_run(path, cell, args.data)
        with where_to(path), alone_in(path):
            result = run_cell(cell, path, data=data, fitted_model=fitted_model, progress=output.progress)
    for line in lines_of(result):
        output.say(line)
    return {"run": str(path), **result.evaluation, "settings": _settings(cell)}


def _measured(args: Any, wanted: Cell, output: Output) -> dict[str, Any]:
    """Measure a run's pair with other settings than its own."""
    cell, data, run = open_run(args)
    output.note(f"{run}")
    if wanted.measure != cell.measure:
        # An evaluation that refuses the pair shall do so before anything is measured.
        measure_cell(wanted, run.model, run.guide, data, False, rehearsal_before="the measurement")
    for module in owners_of(run.model, run.guide).values():
        module.to(as_device(wanted.device))
    measured = measure_cell(wanted, run.model, run.guide, data, output.progress)
    for line in measured.in_words:
        output.say(line)
    return {
        "run": str(args.run),
        "settings": _settings(wanted),
        "data": run.data,
        "test_images": images_hash(data.test_images[: wanted.num_test]),
        "measured": measured.summaries,
        "in_words": measured.in_words,
        "failed_evaluations": measured.failed_evaluations,
    }


def _settings(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in MEASURED}
