"""Give scripts errors in one line, as the command line has them, and a free folder for their results."""

import argparse
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pyro_vae.cli import INTERRUPTED, USAGE, message_of, short_warnings
from pyro_vae.cli.runs import remove_if_empty
from pyro_vae.cli.usage import a_path, spelled
from pyro_vae.errors import RunError
from pyro_vae.fit.run import CHECKPOINT, CONFIG, METRICS
from pyro_vae.runtime.arguments import named_as, with_flags
from pyro_vae.runtime.files import alone_in

RUNS, SMOKE = Path("runs"), Path("runs/smoke")

TABLE = "table.json"
"""File with the numbers of a script that keeps no run."""

WRITTEN = (CONFIG, METRICS, str(Path(CHECKPOINT).parent), "evaluation.json", "figures", TABLE)
"""Files and folders that ``--overwrite`` removes."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function; an error that its user can mend ends it with one line and exit code 2."""
    flags = {word[2:].partition("=")[0] for word in spelled(sys.argv[1:]) if word[2:] and word[:2] == "--"}
    with named_as("script"):
        try:
            with short_warnings(False):
                main()
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            message = message_of(error, with_places=False)
            if message is None:
                raise
            words = with_flags(message, flags).split()
            print(f"{Path(sys.argv[0]).name}: error:", *words, file=sys.stderr, flush=True)  # noqa: T201
            raise SystemExit(USAGE) from None


def add_out(parser: argparse.ArgumentParser, name: str, what: str, *, resume: bool = True) -> None:
    """Add the flags ``--out``, ``--overwrite`` and, for scripts that keep runs, ``--resume``.

    Args:
        parser: of the script.
        name: of the folder, if the user names none.
        what: what the folder is for.
        resume: whether a run can be resumed.
    """
    default = f"default: {RUNS / name}, or {name}-2, ... where that is taken; with --smoke {SMOKE / name}"
    parser.add_argument("--out", type=a_path, default=argparse.SUPPRESS, help=f"folder for {what} ({default})")
    parser.add_argument("--overwrite", action="store_true", help="start again in --out, and remove what is there")
    if resume:
        parser.add_argument("--resume", action="store_true", help="go on with what is in --out or the last folder")


def choose_out(args: argparse.Namespace, name: str) -> Path:
    """Return the folder of a script's results: a free one, or one with a run to resume.

    Raises:
        RunError: the folder holds results and there is neither ``--resume`` nor ``--overwrite``, or there are both.
    """
    resume = getattr(args, "resume", False)
    if resume and args.overwrite:
        raise RunError("--resume goes on with what is there, --overwrite removes it: give one of them.")
    smoke = args.smoke and "out" not in args
    out: Path = args.out if "out" in args else SMOKE / name if smoke else _numbered(name, resume or args.overwrite)
    for folder in _results(out):
        if args.overwrite or (smoke and not resume):
            _clear(folder)
        elif not resume:
            goes_on = "--resume goes on with it, " if hasattr(args, "resume") else ""
            raise RunError(f"{out} holds a run already: {goes_on}--overwrite starts again, another --out keeps both.")
    return out


def _numbered(name: str, last: bool) -> Path:
    """Return the last folder of a name that holds results, or the first that holds none."""
    folders = (RUNS / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    taken = list(itertools.takewhile(_results, folders))
    if last:
        return taken[-1] if taken else RUNS / name
    return RUNS / (f"{name}-{len(taken) + 1}" if taken else name)


def _results(out: Path) -> list[Path]:
    """Return the folders of results: this one, or its direct sub-folders."""
    if not out.is_dir():
        return []
    if (out / CONFIG).is_file():
        return [out]
    inside = [folder for folder in sorted(out.iterdir()) if (folder / CONFIG).is_file()]
    return [*([out] if (out / TABLE).is_file() else []), *inside]


def _clear(folder: Path) -> None:
    """Remove a run's files, and the folder if it holds nothing else, unless another process works there."""
    with alone_in(folder):
        for name in WRITTEN:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    remove_if_empty(folder)
