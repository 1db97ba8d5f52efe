"""`compare`: compute those cells of a grid that are not computed yet, and return the comparison."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.comparison.cautions import seed_outlook
from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.comparison import GRID, Comparison
from pyro_vae.comparison.data_text import parse_data
from pyro_vae.comparison.executors import LOCAL, check_options, run_tasks
from pyro_vae.comparison.grid import FOLDERS, Grid
from pyro_vae.comparison.progress import shown
from pyro_vae.comparison.results import is_finished, write_error
from pyro_vae.comparison.run_cell import load_data_of
from pyro_vae.comparison.task import Task, folder_of
from pyro_vae.data import DATASETS, ImageData, is_available
from pyro_vae.errors import CheckpointError, FolderBusyError, RunError
from pyro_vae.fit.run import CONFIG, read_config
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count, check_path, check_whole
from pyro_vae.runtime.files import alone_in, write_bytes
from pyro_vae.runtime.reading import read_yaml, require_inside
from pyro_vae.runtime.wording import count

LOOK_FOR = 2.0
"""Seconds to wait for the grid of another process that has locked the folder."""

REMEDY = "Put the old data back, or choose another folder for the results."
"""What to do if data have changed since cells were fitted to them."""

logger = logging.getLogger("pyro_vae")


def compare(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    progress: bool | None = None,
    trust: bool = False,
) -> Comparison:
    """Fit and measure all cells of a grid, and return their results as one comparison.

    Each cell has a run folder in ``out``, named by the hash of its settings. A finished cell is never computed again. A
    cell that was killed resumes from its last checkpoint, and ends with the same numbers as without the interruption
    (on the same kind of machine, with as many threads). If a cell fails, its error is recorded, the other cells are
    still run, and a further call tries it again. With one or two seeds, a message is logged before anything is fitted
    on which differences the comparison will show.

    Args:
        grid: a :class:`Grid`, its description, or a YAML file of it.
        out: folder of the comparison; with a cluster, a folder that all its workers see.
        jobs: processes on this machine, each with one cell at a time; 1 runs all cells in this process.
        threads: of each process; by default those of this process (one for each core, or ``OMP_NUM_THREADS``) divided
            by the number of jobs.
        backend: "loky" for processes of this machine, "serial", "dask" or "ray" for a cluster.
        scheduler: the cluster's address, as ``tcp://10.0.0.1:8786``; None with Ray starts a cluster on this machine.
        progress: True draws bars on a terminal, and elsewhere prints a line as each cell ends; None draws bars on a
            terminal only.
        trust: whether a grid from a YAML file may name classes that are not the package's, whose files are then
            imported. A grid that is written in Python may always name them.

    Returns:
        :class:`Comparison`; its tables are in ``out`` as well.

    Raises:
        ValueError: the grid is wrong; the message names the line.
        RunError: ``out`` holds something else, or results of another version, or another process computes another
            grid there.
        ClusterError: the scheduler does not answer.
    """
    check_whole("compare", argument("jobs"), jobs)
    if threads is not None:
        check_count("compare", argument("threads"), threads)
    check_options(jobs, backend, scheduler)
    check_path("compare", argument("out"), out)
    if not isinstance(grid, Grid):
        grid = Grid.of(grid) if isinstance(grid, Mapping) else Grid.read(grid, trust=trust)
    out = Path(out).resolve()
    if (out / CONFIG).is_file():
        raise RunError(f"{out} is the folder of a run: choose another {argument('out')} for the comparison.")
    cells = [Task(cell, out) for cell in grid.cells]
    cells = [task for task in cells if not is_finished(task.path, task.cell)]
    needed = {task.cell.fitted_model for task in cells}
    fits = [Task(cell, out, only_fit=True) for cell in grid.fitted_models if cell in needed]
    tasks = [*fits, *cells]
    for cell in (*grid.fitted_models, *grid.cells):
        require_inside(folder_of(out, cell), out)
    if cells:
        if backend in LOCAL:
            _require_data([task.cell for task in cells], len(grid.cells))
        _require_same_data([*grid.fitted_models, *grid.cells], [task.cell for task in tasks], out)
        outlook = seed_outlook(grid)
        if outlook is not None:
            logger.warning(outlook)
    labels = {task: task.cell.label(grid.varying) for task in cells}
    labels |= {task: f"model for {task.cell.label(())}" for task in fits}
    options: dict[str, Any] = {"jobs": jobs, "threads": threads, "backend": backend, "scheduler": scheduler}
    with _grid_in(grid, out), shown(tasks, labels, progress) as end:
        failed: dict[Cell | None, str] = {}
        # A cell that takes over a model is run after this model was fitted, and not if that failed.
        for stage in (fits, cells):
            ready = []
            for task in stage:
                if task.cell.fitted_model in failed:
                    error = f"the model that it takes over could not be fitted: {failed[task.cell.fitted_model]}"
                    write_error(task.path, error)
                    end(task, error)
                else:
                    ready.append(task)
            for task, outcome in run_tasks(ready, **options) if ready else ():
                if outcome is not None:
                    failed[task.cell] = outcome
                end(task, outcome)
    comparison = Comparison.of(grid, out)
    try:
        comparison.write_tables()
    except CheckpointError:
        # A finished comparison may be read from a disk that cannot be written.
        if tasks:
            raise
    return comparison


@contextlib.contextmanager
def _grid_in(grid: Grid, out: Path) -> Iterator[None]:
    """Write a grid into its folder, and let no process write another grid there inside the block.

    Processes with the same grid share the folder.

    Raises:
        RunError: another process computes another grid there, or the folder holds a grid file of the user's own.
    """
    file = out / GRID
    content = yaml.safe_dump(grid.description(), sort_keys=False, allow_unicode=True).encode()

    def is_written() -> bool:
        return file.is_file() and file.read_bytes() == content

    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + LOOK_FOR
        while True:
            try:
                stack.enter_context(alone_in(out))
                break
            except RunError as error:
                if is_written():
                    break
                if not isinstance(error, FolderBusyError):
                    raise
                if time.monotonic() > deadline:
                    raise RunError(
                        f"another process computes another grid in {out}: wait until it has ended, or choose another "
                        f"folder for the results."
                    ) from error
                time.sleep(0.05)
        if not is_written():
            _require_own(file)
            write_bytes(file, content)
        yield


def _require_data(cells: Sequence[Cell], number: int) -> None:
    """Raise a ValueError if data of cells are missing, before files of an earlier call are overwritten."""
    names = [parse_data(cell.data)[0] for cell in cells]
    missing = [name for name in names if name not in DATASETS and not is_available(name)]
    if missing:
        raise ValueError(
            f"compare: there are no data at {missing[0]}, which {len(missing)} of {count(number, 'cell')} "
            f"{'needs' if len(missing) == 1 else 'need'}: put them there, or name others in the grid."
        )


def _require_same_data(done: Sequence[Cell], to_do: Sequence[Cell], out: Path) -> None:
    """Raise a RunError if data of cells have changed since other cells were fitted to them."""
    needed = {cell.data_settings for cell in to_do}
    fitted = [cell for cell in done if cell.data_settings in needed and (folder_of(out, cell) / CONFIG).is_file()]
    loaded: dict[tuple[Any, ...], ImageData] = {}
    for cell in fitted:
        path, key = folder_of(out, cell), cell.data_settings
        if key not in loaded:
            loaded[key] = load_data_of(cell)
        require_same_data(read_config(path)["data"], loaded[key], path, REMEDY)


def _require_own(file: Path) -> None:
    """Raise a RunError if a file is there that this package has not written, and that would be overwritten."""
    if file.is_file():
        content = None
        with contextlib.suppress(RunError):
            content = read_yaml(file, file.parent)
        if not isinstance(content, dict) or FOLDERS not in content:
            raise RunError(
                f"{file} was not written by compare and would be lost: choose another folder for the results."
            )
