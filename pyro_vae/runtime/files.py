"""Atomic writes of files, and a lock that lets one process at a time work in a run folder."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pyro_vae.errors import CheckpointError, FolderBusyError, RunError
from pyro_vae.runtime.arguments import argument, reader

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""

LOCK = ".lock"
"""Name of the lock in a run folder. It is a lock of the system, so that it is released when its process ends."""

REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "Free space",
    (errno.EACCES, errno.EPERM, errno.EROFS): "Make the folder {path.parent} writable",
    (errno.ENOENT, errno.ENOTDIR, errno.ESTALE): "Put the folder {path.parent} back",
    (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): "Remove what lies at {path}",
}
"""What the user can do, by the numbers of the errors."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole: a reader, or a run that resumes, sees either all of it or the file before it.

    Each writer has its own temporary file beside the target, so that several may write at once; the last one to finish
    wins. The next writer removes temporary files that a killed writer left.

    Raises:
        CheckpointError: the disk refuses.
    """
    try:
        _remove_leftovers(path)
        while not _write(path, content):
            pass
    except OSError as error:
        intact = "; the one written before it is intact" if path.is_file() else ""
        go_on = f"with {argument('out', '...')}, then go on with {argument('resume', True)}"
        if reader() == "settings":
            go_on = "for the results, then compare again"
        raise CheckpointError(
            f"could not write {path}: {error.strerror or error}{intact}. {remedy(error, path)} or choose another "
            f"folder {go_on}."
        ) from error


def remedy(error: OSError, path: Path) -> str:
    """Return what the user can do about a file that could not be written.

    >>> remedy(OSError(errno.ENOENT, "No such file or directory"), Path("runs/a/config.yaml"))
    'Put the folder runs/a back'
    """
    remedies = (text for numbers, text in REMEDIES.items() if error.errno in numbers)
    return next(remedies, "Check the disk").format(path=path)


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Make a run folder, and be the only process that works in it.

    The thread that holds the folder may enter again.

    Args:
        folder: the run folder.
        wait: until another process that works there has ended.

    Raises:
        FolderBusyError: another process works there and ``wait`` is off.
        RunError: the folder cannot be made or written to.
    """
    # One lock object a folder and process, which counts how often its thread has entered.
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise FolderBusyError(
            f"another process works in {folder}: wait until it has ended, or choose another folder."
        ) from error
    except OSError as error:
        raise RunError(
            f"cannot make the run folder {folder}: {error.strerror or error}. Choose another {argument('out')}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, content: bytes) -> bool:
    """Write to the side and rename; return False if another process has removed the temporary file meanwhile."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    with beside.open("xb") as file:
        try:
            # The lock is held until the file has its name: a partial file without a lock is a killed writer's.
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not beside.exists():  # it was taken for a leftover before it was locked
                return False
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # a disk that refuses to write may refuse to delete as well
                beside.unlink()
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the partial files of a file whose writers were killed; those at work hold a lock."""
    for file in path.parent.iterdir():
        if file.name.startswith(f"{path.name}.") and file.name.endswith(PARTIAL):
            # It may be renamed or removed by now; a file system without locks keeps it, which does no harm.
            with contextlib.suppress(OSError), file.open("r+b") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
