"""The flags and checks of commands that read a run folder."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from pyro_vae.cli.usage import a_path
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.results import CellResult, epochs_done, is_finished, is_fitted, read_cell
from pyro_vae.comparison.run_cell import load_data_of_run, load_pair
from pyro_vae.data import ImageData
from pyro_vae.errors import RunError
from pyro_vae.fit import Run, load_run
from pyro_vae.fit.run import CONFIG, bounds
from pyro_vae.parts import PARTS, named_parts, parse_part
from pyro_vae.runtime.differences import differences, listed
from pyro_vae.runtime.files import LOCK
from pyro_vae.runtime.wording import count


def add_run(parser: argparse.ArgumentParser, group: argparse._ActionsContainer, out: str, what: str) -> None:
    """Add the run folder, the flags that :func:`open_run` reads, and ``--out``.

    Args:
        parser: of a command that reads a run.
        group: of the parser, for the flags.
        out: what ``--out`` takes, FILE or DIR.
        what: its help.
    """
    parser.add_argument("run", type=a_path, metavar="RUN", help="run folder, as `fit` and `compare` write them")
    help = "run whose model was taken over, if it is not beside this one"
    group.add_argument("--fitted_model", type=a_path, metavar="RUN", default=None, help=help)
    group.add_argument("--out", type=a_path, metavar=out, default=None, help=what)
    add_moved_data(group)
    add_trust(group)


def add_trust(parser: argparse._ActionsContainer, what: str = "RUN") -> None:
    """Add ``--trust``, which allows a folder or file to name classes that are not the package's."""
    help = f"import the classes that {what} names, also those of other packages and files: that runs their code"
    parser.add_argument("--trust", action="store_true", default=False, help=help)


def add_moved_data(parser: argparse._ActionsContainer) -> None:
    """Add ``--data``, which says where the data are now."""
    help = "where the data are now, if not where they were; other data are refused"
    parser.add_argument("--data", metavar="NAME", default=None, help=help)


def lines_of(result: CellResult) -> list[str]:
    """Return a line for the run, in the words of :class:`pyro_vae.Run`, and a line for each evaluation."""
    history, data = result.history, result.evaluation["data"]
    run = f"run of {count(len(history), 'epoch')} on {data['name']} in {result.path}: {bounds(history[-1])}"
    return [run, *result.evaluation["in_words"]]


def find_fitted_model(cell: Cell, named: Path | None, beside: Sequence[Path], trust: bool = False) -> Path | None:
    """Return the run folder of the model that a cell takes over; None if it takes over none.

    Args:
        cell: the cell that takes over a model.
        named: the folder, if the user has named it.
        beside: folders that are searched otherwise, for a run folder named by the hash, as comparisons have them.
        trust: import the classes that the folder names, also those of other packages and files.

    Raises:
        RunError: the run is missing or another one, or the user has named a folder for a cell that takes over none.
    """
    if cell.fitted_model is None:
        if named is not None:
            raise RunError("the run takes over no other run's model: leave out --fitted_model.")
        return None
    places = [named] if named is not None else [folder / cell.fitted_model.hash for folder in beside]
    for place in places:
        if (place / CONFIG).is_file():
            found_cell = read_cell(place, trust=trust, named=classes_of(cell))
            if found_cell != cell.fitted_model:
                how = differing(found_cell, cell.fitted_model)
                raise RunError(f"{place} is not the run whose model is taken over; {how}.")
            require_fitted(place, found_cell)
            return place
    raise RunError(
        f"the run takes over the model of another one, which is not at {' or '.join(map(str, places))}: say where it "
        f"is with --fitted_model."
    )


def classes_of(cell: Cell) -> set[str]:
    """Return the names of the classes that a cell, and the cell whose model it takes over, are made of."""
    texts = {kind: getattr(cell, kind) for kind in PARTS}
    names = {parse_part(kind, text)[0] for kind, text in texts.items()}
    for kind, text in texts.items():
        names |= {parse_part(*inner)[0] for inner in named_parts(kind, text).values()}
    names |= {parse_part("measure", text)[0] for text in cell.measure}
    return names if cell.fitted_model is None else names | classes_of(cell.fitted_model)


def differing(found_cell: Cell, wanted: Cell) -> str:
    """Return by which settings the cell of a folder differs from the one that is wanted.

    >>> differing(Cell(seed=2), Cell(seed=1))
    'seed: was 2, is 1'
    """
    return listed(list(differences(found_cell.settings(), wanted.settings())))


def require_fitted(path: Path, cell: Cell) -> None:
    """Raise a RunError if a run is not fitted to its last epoch, its results are damaged, or its code has changed."""
    is_finished(path, cell, only_reads=True)
    if not is_fitted(path, cell, only_reads=True):
        done = f"{path} has {epochs_done(path)} of its {count(cell.epochs, 'epoch')}"
        raise RunError(f"{done}: go on with `pyro-vae fit --resume --out {path}`.")


def open_run(args: argparse.Namespace) -> tuple[Cell, ImageData, Run]:
    """Return a run's cell and data, and the run with its fitted pair.

    Args:
        args: the flags of :func:`add_run`.

    Raises:
        RunError: the run is missing, damaged, not fitted to its end, or fitted to other data.
    """
    path: Path = args.run
    cell = read_cell(path, trust=args.trust)
    require_fitted(path, cell)
    data = load_data_of_run(path, cell, args.data)
    source = find_fitted_model(cell, args.fitted_model, [path.resolve().parent], args.trust)
    return cell, data, load_run(path, *load_pair(path, cell, data, source))


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder that holds nothing but its lock."""
    with contextlib.suppress(OSError):
        if [file.name for file in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
