"""Rooms import what stands below them: the contracts in pyproject.toml, kept by import-linter."""

from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_no_room_imports_one_above_it(capsys):
    contracts = str(Path(__file__).parents[1] / "pyproject.toml")
    status = lint_imports(config_filenames=(contracts,), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
