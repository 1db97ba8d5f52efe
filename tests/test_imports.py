"""Rooms import what stands below them: the contracts in pyproject.toml, kept by import-linter."""

from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_no_room_imports_one_above_it(capsys, monkeypatch):
    # It would disable the loggers of this process, and with them what later tests look for.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    contracts = str(Path(__file__).parents[1] / "pyproject.toml")
    status = lint_imports(config_filenames=(contracts,), no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
