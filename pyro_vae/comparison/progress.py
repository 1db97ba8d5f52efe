"""Show the progress of a comparison: a bar for each cell at work, and one for all cells with the time that is left."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from pyro_vae.comparison.results import epochs_done
from pyro_vae.comparison.task import Task
from pyro_vae.runtime.progress import progress_bar

if TYPE_CHECKING:
    from tqdm import tqdm

LOOK_EVERY = 0.5
"""Seconds between two looks at the cells' metrics files, which is how cells on any machine are followed."""


class Bars:
    """Draws a bar for each cell at work and one for all epochs of all cells."""

    def __init__(self, tasks: Sequence[Task], labels: Mapping[Task, str]) -> None:
        # The terminal itself, as `sys.stderr` is redirected later.
        self._labels, self._terminal = labels, sys.stderr
        self._left = {task: epochs_done(task.path) for task in tasks}
        self._ended = 0
        total = sum(task.cell.epochs for task in tasks)
        # Cells differ in length, so the time left is estimated from the mean pace since the start (smoothing=0).
        self._all = progress_bar(
            total, " epochs", "all epochs", shown=True, initial=sum(self._left.values()), smoothing=0
        )
        self._shown: dict[Task, tqdm[Any]] = {}
        # Locks the bars while they change: a bar that is drawn after it was closed would stay on the screen.
        self._change = threading.Lock()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def end(self, task: Task, error: str | None) -> None:
        """Remove a cell's bar, and print a line if the cell failed."""
        with self._change:
            self._left.pop(task, None)
            self._ended += task.cell.epochs
            self._all.n = max(self._all.n, self._ended)
            if task in self._shown:
                self._shown.pop(task).close()
        if error is not None:
            print(f"{self._labels[task]} FAILED: {error}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Stop looking, and leave the bar of all epochs on the screen."""
        self._over.set()
        self._watch.join()
        for bar in (*self._shown.values(), self._all):
            bar.close()

    def _look(self) -> None:
        """Follow the cells' metrics files until :meth:`close`."""
        start = dict(self._left)
        while not self._over.wait(LOOK_EVERY):
            done = {task: epochs_done(task.path) for task in list(self._left)}
            with self._change:
                # Some cells have ended meanwhile.
                done = {task: epochs for task, epochs in done.items() if task in self._left}
                for task, epochs in done.items():
                    if epochs > start[task] and task not in self._shown:
                        self._shown[task] = progress_bar(
                            task.cell.epochs, " epochs", self._labels[task], shown=True, initial=epochs,
                            leave=False, file=self._terminal,
                        )  # fmt: skip
                    if task in self._shown:
                        self._shown[task].n = epochs
                        self._shown[task].refresh()
                self._all.n = self._ended + sum(done.values())
                self._all.refresh()


End = Callable[[Task, str | None], None]
"""Shows that a task has ended, with its error if it failed."""


@contextmanager
def shown(tasks: Sequence[Task], labels: Mapping[Task, str], progress: bool | None) -> Iterator[End]:
    """Show the progress of tasks on standard error, and yield a function to call as each task ends.

    Text that is printed inside the block on a terminal stands above the bars.

    Args:
        tasks: all of them.
        labels: the name of each task.
        progress: True draws bars on a terminal and prints a line for each cell elsewhere; None draws bars on a terminal
            only; False is silent.
    """
    is_terminal = sys.stderr.isatty()
    if progress is False or not tasks or (progress is None and not is_terminal):
        yield lambda *_: None
        return
    if not is_terminal:
        numbers = iter(range(1, len(tasks) + 1))

        def print_line(task: Task, error: str | None) -> None:
            how = "finished" if error is None else f"FAILED: {error}"
            line = f"[{next(numbers)}/{len(tasks)}] {labels[task]}: {how}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201

        yield print_line
        return
    from tqdm.contrib import DummyTqdmFile  # Slow to import, and seldom needed.

    bars = Bars(tasks, labels)
    above: Any = DummyTqdmFile(sys.stderr)
    try:
        with redirect_stderr(above), redirect_stdout(above):
            yield bars.end
    finally:
        bars.close()
