"""Rooms import what stands below them: the contracts in pyproject.toml, kept by import-linter."""

import re
import tomllib
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]


def test_no_room_imports_one_above_it(capsys, monkeypatch):
    # It would disable the loggers of this process, and with them what later tests look for.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    status = lint_imports(config_filenames=(str(ROOT / "pyproject.toml"),), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_folder_of_evaluation_has_its_place():
    """One file may be left out, so that a new evaluation costs no line of the contracts; a folder may not."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == "rooms of evaluation"]
    listed = {name for layer in contract["layers"] for name in re.split(r" *\| *", layer)}
    folders = {path.parent.name for path in (ROOT / "pyro_vae" / "evaluation").glob("*/__init__.py")}
    assert folders - listed == set(), "name these folders in the contract of pyproject.toml"
