"""How far a comparison is: a line for each cell at work, and one for all with the time that is left."""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyro_vae.comparison.results import epochs_done
from pyro_vae.comparison.task import Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOOK_EVERY = 0.5
"""Seconds between two looks at the cells' metrics files, which is how cells on any machine are followed."""

SPEED_OVER = 3600.0
"""Seconds whose pace tells the time that is left: cells differ in length."""


class Lines:
    """Prints a line as each cell ends, where there is no terminal to draw on."""

    def __init__(self, total: int, labels: Mapping[Task, str]) -> None:
        self._total, self._labels, self._ended = total, labels, 0

    def end(self, task: Task, error: str | None) -> None:
        """Say how a cell ended."""
        self._ended += 1
        how = "finished" if error is None else f"FAILED: {error}"
        print(f"[{self._ended}/{self._total}] {self._labels[task]}: {how}", file=sys.stderr, flush=True)  # noqa: T201


class Bars:
    """Draws a bar for each cell at work and one for all epochs of all cells."""

    def __init__(self, bars: "Progress", tasks: Sequence[Task], labels: Mapping[Task, str]) -> None:
        self._bars, self._labels = bars, labels
        self._left = {task: epochs_done(task.path) for task in tasks}
        self._shown: dict[Task, TaskID] = {}
        self._over = threading.Event()
        self._all = bars.add_task("all epochs", total=sum(task.cell.epochs for task in tasks))
        self._ended = 0
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def end(self, task: Task, error: str | None) -> None:
        """Take a cell's bar away, and leave a line where it failed."""
        self._left.pop(task, None)
        self._ended += task.cell.epochs
        bar = self._shown.pop(task, None)
        if bar is not None:
            self._bars.remove_task(bar)
        if error is not None:
            self._bars.console.print(f"{self._labels[task]} FAILED: {error}", markup=False, highlight=False)

    def close(self) -> None:
        """Stop looking."""
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        start = dict(self._left)
        while not self._over.wait(LOOK_EVERY):
            going = {task: epochs_done(task.path) for task in list(self._left)}
            for task, epochs in going.items():
                if epochs > start.get(task, 0) and task not in self._shown and task in self._left:
                    self._shown[task] = self._bars.add_task(self._labels[task], total=task.cell.epochs)
                if task in self._shown:
                    self._bars.update(self._shown[task], completed=epochs)
            self._bars.update(self._all, completed=self._ended + sum(going.values()))


@contextmanager
def shown(tasks: Sequence[Task], labels: Mapping[Task, str], progress: bool | None) -> Iterator["Lines | Bars | None"]:
    """Show how far tasks are, on the standard error stream.

    Args:
        tasks: all of them.
        labels: what to call each.
        progress: True draws bars on a terminal and prints a line a cell elsewhere; None only draws; False is silent.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if progress is False or not tasks or (progress is None and not console.is_terminal):
        yield None
        return
    if not console.is_terminal:
        yield Lines(len(tasks), labels)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=SPEED_OVER) as bars:
        found = Bars(bars, tasks, labels)
        try:
            yield found
        finally:
            found.close()
