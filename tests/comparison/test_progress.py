"""How far a comparison is, said in lines or drawn in bars, and never where it was not wanted."""

import io
import time

import pytest
import rich.console

from pyro_vae.comparison import Cell
from pyro_vae.comparison.progress import Bars, shown
from pyro_vae.comparison.task import Task
from pyro_vae.fit.run import write_history


@pytest.fixture
def tasks(tmp_path):
    return [Task(Cell(seed=seed, epochs=4), tmp_path) for seed in range(2)]


def labels(tasks):
    return {task: f"seed {task.cell.seed}" for task in tasks}


def test_a_line_a_cell_where_there_is_no_terminal(tasks, capsys):
    with shown(tasks, labels(tasks), True) as display:
        display.end(tasks[1], None)
        display.end(tasks[0], "ValueError: no")
    assert capsys.readouterr().err == "[1/2] seed 1: finished\n[2/2] seed 0: FAILED: ValueError: no\n"


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_said_where_nothing_is_wanted(progress, tasks, capsys):
    with shown(tasks, labels(tasks), progress) as display:
        assert display is None
    assert capsys.readouterr().err == ""


def test_bars_follow_the_metrics_files(tasks, monkeypatch):
    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    with shown(tasks, labels(tasks), None) as display:
        assert isinstance(display, Bars)
        tasks[0].path.mkdir(parents=True)
        write_history(tasks[0].path, [{"epoch": epoch} for epoch in (1, 2, 3)])
        deadline = time.monotonic() + 60
        while "3/4" not in screen.getvalue() or "3/8" not in screen.getvalue():
            assert time.monotonic() < deadline, screen.getvalue()
            time.sleep(0.02)
        display.end(tasks[0], "RuntimeError: [no] luck")
    said = screen.getvalue()
    assert "seed 0" in said
    assert "all epochs" in said
    assert "seed 0 FAILED: RuntimeError: [no] luck" in said
