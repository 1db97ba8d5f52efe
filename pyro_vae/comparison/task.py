"""The task of a worker, on this machine or another: run one cell, and record errors."""

import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.results import ERROR, epochs_done, is_finished, write_error
from pyro_vae.comparison.run_cell import fit_cell, run_cell
from pyro_vae.runtime.arguments import named_as
from pyro_vae.runtime.files import alone_in
from pyro_vae.runtime.user_code import with_place

CELLS, LOG = "cells", "log.jsonl"


def folder_of(out: Path, cell: Cell) -> Path:
    """Return a cell's run folder."""
    return out / CELLS / cell.hash


@dataclass(frozen=True)
class Task:
    """A cell to run, as it is sent to a worker."""

    cell: Cell
    out: Path
    """Folder of the comparison: an absolute path that all workers see."""
    only_fit: bool = False
    """Whether the cell is only fitted, as others take over its model, and not measured."""

    @property
    def path(self) -> Path:
        """The cell's run folder."""
        return folder_of(self.out, self.cell)


Outcome = tuple[Task, str | None]
"""A task that ended, and its error if it failed."""

Worker = Callable[[Task], str | None]
"""Runs a task, and returns its error if it failed."""


def work(task: Task, threads: int | None = None, parent: int | None = None) -> str | None:
    """Run a cell; an error is recorded in its folder and returned, so that it does not end the other cells.

    Args:
        task: the cell.
        threads: number of torch's threads; None does not change it.
        parent: process id; if that process ends, this one ends as well.
    """
    if parent is not None and parent != os.getpid():
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    try:
        # The next cell must not see the `pyro.param` values of this one.
        with _threads(threads), pyro.get_param_store().scope(), named_as("settings"):
            _run(task)
        return None
    except Exception as error:
        message = with_place(f"{type(error).__name__}: {error}", error)
        _log(task, "failed", error=message)
        write_error(task.path, f"{message}\n\n{traceback.format_exc()}")
        return message


def _run(task: Task) -> None:
    fitted_model = None if task.cell.fitted_model is None else folder_of(task.out, task.cell.fitted_model)
    with alone_in(task.path, wait=True):
        if is_finished(task.path, task.cell):
            return
        done = epochs_done(task.path)
        _log(task, "resumed" if done else "started", epochs_done=done)
        (task.path / ERROR).unlink(missing_ok=True)
        if task.only_fit:
            fit_cell(task.cell, task.path, progress=False)
        else:
            run_cell(task.cell, task.path, fitted_model=fitted_model)
        _log(task, "fitted" if task.only_fit else "finished")


def _log(task: Task, event: str, **more: object) -> None:
    """Append a line to the comparison's log: the time, the event, the cell and the process."""
    line = {"time": round(time.time(), 2), "event": event, "cell": task.cell.hash, "host": socket.gethostname(),
            "pid": os.getpid(), **more}  # fmt: skip
    # With one write in append mode, lines of several processes do not mix.
    with (task.out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leave_with(parent: int) -> None:
    """End this process soon after its parent: it would go on working in a folder that may be resumed meanwhile."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
