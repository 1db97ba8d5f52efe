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
"""Suffix of a file that is being written."""

LOCK = ".lock"
"""Name of the lock file in a run folder. The operating system releases the lock when its process ends."""

REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "Free space",
    (errno.EACCES, errno.EPERM, errno.EROFS): "Make the folder {path.parent} writable",
    (errno.ENOENT, errno.ENOTDIR, errno.ESTALE): "Put the folder {path.parent} back",
    (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): "Remove what lies at {path}",
}
"""What the user can do, by error numbers."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees either the whole new file or the old one.

    Each writer has its own temporary file beside the target, so that several may write at once; the file of the last
    one to finish remains. The next writer removes temporary files that a killed writer left.

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
    """Make a run folder, and lock it for this process inside the block.

    The thread that holds the lock may enter again.

    Args:
        folder: the run folder.
        wait: whether to wait until another process that works there has ended.

    Raises:
        FolderBusyError: another process works there and ``wait`` is off.
        RunError: the folder cannot be made or written to.
    """
    # There is one lock object for each folder in a process, which counts how often its thread has entered.
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
    """Write a temporary file and rename it; return False if another process has removed it meanwhile."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    with beside.open("xb") as file:
        try:
            # The lock is held until the file has its final name: a partial file without a lock is a killed writer's.
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
    """Remove the partial files that killed writers of a file left; writers at work hold a lock."""
    for file in path.parent.iterdir():
        if file.name.startswith(f"{path.name}.") and file.name.endswith(PARTIAL):
            # It may be renamed or removed by now. On a file system without locks it stays, which does no harm.
            with contextlib.suppress(OSError), file.open("r+b") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
