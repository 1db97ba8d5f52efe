"""`pyro-vae evaluate`: a run that is there, measured with other samples, images or noise."""

import json
import os
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
from pyro_vae.cli.signature import Option, options_of
from pyro_vae.cli.usage import Parser, UsageError, a_path
from pyro_vae.cli.wording import in_text
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.results import EVALUATION, is_finished, read_cell, read_result
from pyro_vae.comparison.run_cell import images_hash, load_data_of_run, measure_cell, run_cell
from pyro_vae.errors import RunError
from pyro_vae.evaluation import ais
from pyro_vae.fit.options import as_device
from pyro_vae.fit.parameters import owners_of
from pyro_vae.fit.run import read_config
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.runtime.files import alone_in, write_bytes

MEASURED = ("num_test", "num_samples", "elbo_samples", "num_gaps", "seed", "device")
"""Settings of a cell that another measurement may have otherwise."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    args = _parser().read(argv)
    path: Path = args.run
    cell = read_cell(path, trust=args.trust)
    require_fitted(path, cell)
    given = {name: value for name, value in vars(args).items() if name in MEASURED}
    wanted = replace(cell, **given)
    chains = {name.removeprefix("ais_"): value for name, value in vars(args).items() if name.startswith("ais_")}
    images = chains.pop("images", 0)
    if images < 0:
        raise UsageError(f"--ais_images must be at least 0; got {images}.")
    for name, value in chains.items():
        if value < 1:
            raise UsageError(f"--ais_{name} must be at least 1; got {value}.")
    if chains and not images:
        raise UsageError(f"--ais_{next(iter(chains))} needs --ais_images: how many test images AIS shall measure.")
    if wanted == cell and not images and (args.out is None or is_finished(path, cell)):
        return _own(path, cell, args, output)
    if args.out is None and not os.access(path, os.W_OK):
        # Said before the work, and not after it.
        raise RunError(f"{path} cannot be written: name a file for the results with --out.")
    opened = open_run(args)
    output.note(f"{opened.run}")
    options = {f"num_{name}": value for name, value in chains.items()}
    if images:
        # What AIS refuses is said before anything is measured.
        few: dict[str, Any] = {"num_temperatures": 2, "num_chains": 1, "num_leapfrog": 1, "burn_in": 0}
        ais(opened.run.model, opened.data.test[:2], **few, seed=wanted.seed, progress=False, compile="off")
    evaluation = _measure(opened, wanted, output)
    content = {"run": str(path), "settings": settings_of(wanted, MEASURED), **evaluation}
    if images:
        test = opened.data.test[:images]
        found = ais(opened.run.model, test, seed=wanted.seed, progress=output.progress, compile=cell.compile, **options)
        output.say(str(found))
        content["ais"] = found.summary()
        chains |= {"images": images}
    settings = {name: value for name, value in given.items() if value != getattr(cell, name)}
    settings |= {f"ais_{name}": value for name, value in chains.items()}
    name = f"evaluation,{','.join(f'{name}={in_text(settings[name])}' for name in sorted(settings))}.json"
    _write(args.out or path / name, content, output)
    output.give(content)
    return 0


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
    chains = parser.add_argument_group("annealed importance sampling from the prior")
    what = "test images, from the first on, that it shall measure as well; without, there is none"
    Option("ais_images", int, None, what).add(chains)
    for name in ("chains", "temperatures"):
        option = options_of(ais)[f"num_{name}"]
        replace(option, name=f"ais_{name}", help=f"{name} of each image").add(chains)
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
    found, _ = measure_cell(wanted, run.model, run.guide, data, output.progress)
    evaluation = {"data": run.data, "test_images": images_hash(data.test[: wanted.num_test]), **found}
    for line in evaluation["in_words"]:
        output.say(line)
    return evaluation
