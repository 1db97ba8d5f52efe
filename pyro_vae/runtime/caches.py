"""Provide a cache folder for libraries, also if the user has no home folder, as in a container."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import platformdirs


@contextmanager
def a_cache() -> Iterator[None]:
    """Provide a home folder and a cache folder, without which ArviZ cannot be imported.

    They are the user's own. If these are missing or cannot be written, temporary ones are made for this process.
    """
    folder = _temporary_folder()
    if folder is None:
        yield
        return
    before = {name: os.environ.pop(name, None) for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    os.environ |= dict.fromkeys(before, folder)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            os.environ |= {} if value is None else {name: value}


@cache
def _temporary_folder() -> str | None:
    """Return a temporary folder for this process; None if the user's own cache folder can be written."""
    try:
        # What ArviZ does on import.
        users_folder = Path(platformdirs.user_cache_dir("arviz", "arviz"))
        users_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=users_folder):
            return None
    except (OSError, RuntimeError):
        folder = tempfile.mkdtemp(prefix="pyro-vae-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
