"""A cache folder for libraries, also where the user has no home folder, as in a container."""

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
    passing = _passing_folder()
    names = [] if passing is None else ["XDG_CACHE_HOME", *([] if _has_home() else ["HOME"])]
    names += [] if passing is None or "MPLCONFIGDIR" in os.environ else ["MPLCONFIGDIR"]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, passing or ""))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _has_home() -> bool:
    try:
        return bool(Path.home())
    except RuntimeError:
        return False


@cache
def _passing_folder() -> str | None:
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
