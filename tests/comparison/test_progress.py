"""How far a comparison is, said in lines or drawn in bars, and never where it was not wanted."""

import io
import sys
import time
from contextlib import redirect_stderr

import pytest

from pyro_vae.comparison import Cell
from pyro_vae.comparison.progress import shown
from pyro_vae.comparison.task import Task
from pyro_vae.fit.run import write_history


@pytest.fixture
def tasks(tmp_path):
    return [Task(Cell(seed=seed, epochs=4), tmp_path) for seed in range(2)]


def labels(tasks):
    return {task: f"seed {task.cell.seed}" for task in tasks}


def test_a_line_a_cell_where_there_is_no_terminal(tasks, capsys):
    with shown(tasks, labels(tasks), True) as end:
        end(tasks[1], None)
        end(tasks[0], "ValueError: no")
    assert capsys.readouterr().err == "[1/2] seed 1: finished\n[2/2] seed 0: FAILED: ValueError: no\n"


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_said_where_nothing_is_wanted(progress, tasks, capsys):
    with shown(tasks, labels(tasks), progress) as end:
        end(tasks[0], None)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """Keeps what a terminal shows."""

    def isatty(self):
        return True


def test_bars_follow_the_metrics_files(tasks):
    with redirect_stderr(Terminal()) as screen, shown(tasks, labels(tasks), None) as end:
        tasks[0].path.mkdir(parents=True)
        write_history(tasks[0].path, [{"epoch": epoch} for epoch in (1, 2, 3)])
        deadline = time.monotonic() + 60
        while "3/4" not in screen.getvalue() or "3/8" not in screen.getvalue():
            assert time.monotonic() < deadline, screen.getvalue()
            time.sleep(0.02)
        end(tasks[0], "RuntimeError: [no] luck")
        end(tasks[1], None)
    said = screen.getvalue()
    # One line below that of all epochs, and up again.
    assert "\n\rseed 0: " in said
    assert "3/4" in said[said.rindex("\n\rseed 0: ") :]
    assert said.splitlines()[-1].startswith("all epochs: 100%")
    assert "seed 0 FAILED: RuntimeError: [no] luck" in said


def test_what_is_printed_meanwhile_stands_on_lines_of_its_own(tasks):
    """Each line starts where a bar was cleared, and the bar is drawn again below it."""
    with redirect_stderr(Terminal()) as screen:
        with shown(tasks, labels(tasks), None):
            sys.stdout.write("from a program\n")
            sys.stderr.write("a warning\n")
        assert sys.stderr is screen
    said = screen.getvalue()
    assert "\rfrom a program\n" in said
    assert "\ra warning\n" in said
    assert said.rindex("all epochs") > said.index("a warning")


def test_an_interrupt_ends_the_bars(tasks):
    with redirect_stderr(Terminal()) as screen:
        with pytest.raises(KeyboardInterrupt), shown(tasks, labels(tasks), None):
            raise KeyboardInterrupt
        assert sys.stderr is screen
    assert "all epochs" in screen.getvalue()
    assert screen.getvalue().endswith("\n")
