"""Where the results of a script go, and how its errors are said."""

import argparse
import threading
from pathlib import Path

import pytest

from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.comparison import Cell
from pyro_vae.errors import FolderBusyError, RunError
from pyro_vae.fit import BATCH_SIZE, EPOCHS, LEARNING_RATE, fit
from pyro_vae.runtime.files import alone_in


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chosen(*flags, resume=True):
    parser = argparse.ArgumentParser()
    add_out(parser, "mine", "the run", resume=resume)
    parser.add_argument("--smoke", action="store_true")
    return choose_out(parser.parse_args(flags), "mine")


def put_run(folder, **files):
    for name in ("config.yaml", "metrics.csv", "checkpoint/last.safetensors", "figures/a.png", *files):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")


def test_results_go_to_the_first_folder_that_is_free():
    assert chosen() == Path("runs/mine")
    put_run("runs/mine")
    assert chosen() == Path("runs/mine-2")
    put_run("runs/mine-2/inner")
    assert chosen() == Path("runs/mine-3")
    Path("runs/mine-3").mkdir()
    Path("runs/mine-3/table.json").touch()
    assert chosen() == Path("runs/mine-4")
    assert chosen("--resume") == Path("runs/mine-3")
    assert chosen("--out", "other") == Path("other")


def test_a_smoke_run_is_elsewhere_and_starts_again():
    put_run("runs/mine")
    assert chosen("--smoke") == Path("runs/smoke/mine")
    put_run("runs/smoke/mine")
    assert chosen("--smoke") == Path("runs/smoke/mine")
    assert not Path("runs/smoke/mine").exists()
    put_run("runs/smoke/mine")
    assert chosen("--smoke", "--resume") == Path("runs/smoke/mine")
    assert Path("runs/smoke/mine/config.yaml").is_file()
    assert chosen("--smoke", "--out", "mine") == Path("mine")
    assert Path("runs/mine/config.yaml").is_file()


@pytest.mark.parametrize("folder", ["mine", "mine/inner"])
def test_a_folder_that_holds_a_run_is_gone_on_with_or_overwritten_or_refused(folder):
    put_run(folder, **{"notes.txt": ""})
    with pytest.raises(RunError, match=r"^mine .*--resume .*--overwrite"):
        chosen("--out", "mine")
    with pytest.raises(RunError, match="run already: --overwrite"):
        chosen("--out", "mine", resume=False)
    with pytest.raises(RunError, match="give one of them"):
        chosen("--out", "mine", "--resume", "--overwrite")
    assert chosen("--out", "mine", "--resume") == Path("mine")
    assert Path(folder, "config.yaml").is_file()
    assert chosen("--out", "mine", "--overwrite") == Path("mine")
    assert [path.name for path in Path(folder).iterdir() if path.is_file() and path.name != ".lock"] == ["notes.txt"]
    assert not Path(folder, "checkpoint").exists()


def test_overwriting_takes_the_last_folder_and_leaves_those_further_down():
    put_run("runs/mine")
    put_run("runs/mine-2")
    put_run("runs/mine-2/deep/deeper")
    assert chosen("--overwrite") == Path("runs/mine-2")
    assert Path("runs/mine/config.yaml").is_file()
    assert not Path("runs/mine-2/config.yaml").exists()
    assert Path("runs/mine-2/deep/deeper/config.yaml").is_file()


def test_a_run_that_another_process_fits_is_not_overwritten():
    put_run("mine")
    found = []

    def overwrite():
        try:
            chosen("--out", "mine", "--overwrite")
        except FolderBusyError as error:
            found.append(str(error))

    with alone_in(Path("mine")):
        thread = threading.Thread(target=overwrite)
        thread.start()
        thread.join()
    assert found[0].startswith("another process works in mine: ")
    assert Path("mine/config.yaml").is_file()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("lr must be\n    above 0."), "lr must be above 0."),
        (RunError("no run folder at x."), "no run folder at x."),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied."),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, line, capsys, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr("sys.argv", ["examples/mine.py"])
    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"mine.py: error: {line}\n"


def test_what_the_user_cannot_mend_shows_where_it_comes_from():
    def main():
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        run_script(main)


def test_every_entry_point_has_one_set_of_defaults():
    defaults = fit.__kwdefaults__
    assert (defaults["epochs"], defaults["batch_size"]) == (EPOCHS, BATCH_SIZE)
    cell = Cell()
    assert (cell.epochs, cell.batch_size, cell.lr) == (EPOCHS, BATCH_SIZE, LEARNING_RATE)
    # Those of the runs that the README reports.
    assert (EPOCHS, BATCH_SIZE, LEARNING_RATE) == (40, 128, 3e-3)
