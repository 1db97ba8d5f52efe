"""A folder for what libraries keep between runs, also where the user has none, as in a container."""

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
    """Within, there is a home with a folder for caches: ArviZ cannot be imported without.

    They are the user's, or made for this process where there is no home folder, or none that can be written.
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
    """Return a folder for this process, None where the user's own can be written."""
    try:
        # What ArviZ does on import.
        own = Path(platformdirs.user_cache_dir("arviz", "arviz"))
        own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=own):
            return None
    except (OSError, RuntimeError):
        folder = tempfile.mkdtemp(prefix="pyro-vae-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
