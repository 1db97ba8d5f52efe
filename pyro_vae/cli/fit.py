"""`pyro-vae fit`: fit one cell in a run folder, and measure it."""

import argparse
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.cli.cell_flags import (
    add_cell_flags,
    cell_of,
    named_classes,
    naming_network,
    part_texts,
    read_settings,
)
from pyro_vae.cli.output import Output
from pyro_vae.cli.part_flags import Part, add_part_help, part_of, show_part_help
from pyro_vae.cli.runs import add_trust, classes_of, differing, find_fitted_model, lines_of, remove_if_empty
from pyro_vae.cli.usage import Parser, a_path, wants_help
from pyro_vae.comparison.cell import SCHEDULES, Cell
from pyro_vae.comparison.comparison import GRID
from pyro_vae.comparison.results import epochs_done, is_finished, read_cell
from pyro_vae.comparison.run_cell import fit_cell, load_data_of, load_data_of_run, rehearse, run_cell
from pyro_vae.data import BINARIZATIONS, DATASETS, FILES
from pyro_vae.errors import PairError, RunError, SupportError
from pyro_vae.fit.run import CONFIG
from pyro_vae.graphs.levels import LEVELS
from pyro_vae.nn.mlp import ACTIVATIONS
from pyro_vae.parts import CHOICES, part_names
from pyro_vae.runtime.files import alone_in
from pyro_vae.runtime.wording import count

RUNS = Path("runs")

HASH_DIGITS = 8
"""Number of digits of a cell's hash in its folder's name, enough to tell a user's runs apart."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = _parser()
    known = parser.known(argv)
    base = _base(known)
    texts = part_texts(known, base)
    show_part_help(known, texts)
    parts = {kind: part_of(kind, text) for kind, text in texts.items()}
    for kind, part in parts.items():
        # The help lists the options of chosen parts only, as it is long enough without those of the defaults.
        if kind in known or kind in base or not wants_help(argv):
            part.add_flags(parser)
    args = parser.read(argv, lambda flag: _explained(flag, parts), _flags_of)
    moved = _moved_data(args, base)
    cell = cell_of(args, base, parts)
    if "print_config" in args:
        output.say(yaml.safe_dump(cell.settings(), sort_keys=False, allow_unicode=True).rstrip())
        output.give(cell.settings())
        return 0
    out = args.out if "out" in args else RUNS / _name(cell)
    _check_folder(out, cell, "resume" in args)
    runs = [out, *([args.config if args.config.is_dir() else args.config.parent] if "config" in args else [])]
    beside = [folder.resolve().parent for folder in runs]
    fitted_model = find_fitted_model(cell, getattr(args, "fitted_model", None), beside, args.trust)
    is_new = not (out / CONFIG).is_file()
    data = None
    if is_new:
        data = load_data_of(cell, moved)
        try:
            # Before anything is written, the pair is made, and measured on a few images.
            with naming_network(args):
                rehearse(cell, data, fitted_model)
        except (PairError, SupportError) as error:
            if "no_evaluate" not in args:
                raise
            output.note(f"`pyro-vae evaluate` will not measure this run: {error}")
    elif moved is not None or not is_finished(out, cell):
        data = load_data_of_run(out, cell, moved)
    output.note(f"Run folder: {out}")
    output.after_interrupt = lambda: _how_to_resume(out)
    with _folder(out):
        if "no_evaluate" in args:
            fitted = fit_cell(cell, out, data=data, fitted_model=fitted_model, progress=output.progress)
            output.say(str(fitted))
            last = fitted.history[-1]
            output.give({"run": str(out), "settings": cell.settings(), "data": fitted.data, "last_epoch": last})
            return 0
        result = run_cell(cell, out, data=data, fitted_model=fitted_model, progress=output.progress, rehearsed=is_new)
    for line in lines_of(result):
        output.say(line)
    output.give({"run": str(out), "settings": cell.settings(), **result.evaluation})
    return 0


def _flags_of(word: str) -> list[str]:
    """Return the flags that a word may belong to which was typed without a flag.

    >>> _flags_of("mnist-5k"), _flags_of("flow"), _flags_of("mixture"), _flags_of("extra")
    (['--data'], ['--prior'], ['--guide', '--prior'], [])
    """
    known: dict[str, Collection[str]] = {kind: part_names(kind) for kind in CHOICES}
    known |= {"data": DATASETS, "binarization": BINARIZATIONS, "schedule": SCHEDULES, "compile": LEVELS}
    known |= {"activation": ACTIVATIONS, "device": ("cpu", "cuda", "mps")}
    flags = [f"--{name}" for name, values in known.items() if word.partition("(")[0] in values]
    file = Path(word)
    if (file / CONFIG).is_file() or file.suffix in (".yaml", ".yml"):
        flags.append("--config")
    elif file.suffix in FILES or file.is_dir():
        flags.append("--data")
    return flags


def _parser() -> Parser:
    parser = Parser(
        "fit",
        "[--guide NAME] [--out RUN] [flags]",
        "Fit a model and a guide to the training images, and measure them on the test images: the ELBO and the "
        "importance-weighted log-likelihood, in nats a datum, with their standard errors.",
        "A part's own options are flags after its kind, as --guide iaf --guide.num_flows 4, which is the same as "
        "--guide 'iaf(num_flows=4)'. --guide.help iaf lists those of a guide, and so for the other parts. A flag may "
        "be spelled with - for _. N is a whole number, X a number.",
    )
    group = parser.add_argument_group("the run")
    add = group.add_argument
    what = "run folder (default: runs/GUIDE-HASH, with the hash of all settings)"
    add("--out", type=a_path, metavar="RUN", help=what)
    add("--resume", action="store_true", help="go on with the run in --out, whose settings need not be given again")
    add("--no_evaluate", action="store_true", help="only fit; `pyro-vae evaluate RUN` measures later")
    what = "settings: RUN/config.yaml, or what --print_config printed; flags override them"
    add("--config", type=a_path, metavar="FILE", help=what)
    add_trust(group, "the run or the file")
    add("--print_config", action="store_true", help="print the settings as YAML, and do nothing else")
    add_cell_flags(parser)
    add_part_help(parser)
    return parser


def _base(known: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of ``--config`` or of the run to resume, which flags override."""
    if "config" in known:
        return read_settings(known.config, known.trust, named_classes(known))
    if "resume" in known and "out" in known:
        if not (known.out / CONFIG).is_file():
            raise RunError(f"there is no run to go on with in {known.out}: leave out --resume to start one.")
        return read_settings(known.out, known.trust, named_classes(known))
    return {}


def _moved_data(args: argparse.Namespace, base: dict[str, Any]) -> str | None:
    """Return the place to which the data of a resumed run have moved, and remove it from the flags; else None."""
    if "resume" not in args or "data" not in args or "config" in args or args.data == base.get("data", args.data):
        return None
    moved: str = args.data
    del args.data
    return moved


def _explained(flag: str, parts: Mapping[str, Part]) -> str | None:
    """Return why a part has no flag of a name."""
    kind, dot, name = flag.removeprefix("--").partition(".")
    return parts[kind].refuses(name) if dot and kind in parts else None


def _check_folder(out: Path, cell: Cell, resume: bool) -> None:
    """Refuse a folder that holds another run, and one that holds this run unless it is to be resumed."""
    if not (out / CONFIG).is_file():
        if (out / GRID).is_file():
            raise RunError(f"{out} is the folder of a comparison: choose another --out for the run.")
        if resume:
            raise RunError(
                f"there is no run to go on with in {out}: name its folder with --out, or leave out --resume to start "
                f"one."
            )
        return
    found_cell = read_cell(out, named=classes_of(cell))
    if found_cell != cell:
        done = epochs_done(out)
        trained = f", which has trained {count(done, 'epoch')} already" if cell.epochs < done else ""
        reason = f"{out} holds a run with other settings{trained}; {differing(found_cell, cell)}"
        raise RunError(f"{reason}. Choose another --out.")
    if not resume:
        raise RunError(
            f"{out} holds this run already: --resume goes on with it, or shows its results if it is finished; another "
            f"--out starts again."
        )


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Lock a run folder for this process, and remove the folder if an error leaves nothing in it."""
    with alone_in(out):
        try:
            yield
        except BaseException:
            remove_if_empty(out)
            raise


def _how_to_resume(out: Path) -> str:
    """Return how to resume a run that was interrupted."""
    if (out / CONFIG).is_file():
        return f"`pyro-vae fit --resume --out {out}` goes on where the last checkpoint left it."
    return "Nothing was kept: the same command starts again."


def _name(cell: Cell) -> str:
    """Return a run's name.

    >>> _name(Cell(guide="iaf(num_flows=2)"))[:4]
    'iaf-'
    """
    return f"{cell.guide.partition('(')[0].rpartition(':')[2]}-{cell.hash[:HASH_DIGITS]}"
