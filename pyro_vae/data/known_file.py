"""A file whose exact content is known beforehand."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.data.errors import DataCorruptError

# md5 is here to find damage, not malice; saying so keeps it usable on systems that forbid it for security.
_HASHES: dict[str, Callable[[], Any]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


@dataclass(frozen=True)
class KnownFile:
    """A file, relative to the data root, with the size and hash it must have.

    Attributes:
        path: relative to the root, with forward slashes.
        size: in bytes.
        algorithm: "md5" or "sha256".
        digest: hexadecimal.
    """

    path: str
    size: int
    algorithm: str
    digest: str

    def is_there(self, root: Path) -> bool:
        """Whether a file of this size lies under ``root``; the content is not read."""
        path = root / self.path
        return path.is_file() and path.stat().st_size == self.size

    def check(self, root: Path) -> Path:
        """The file's full path, once its content has been verified.

        Raises:
            DataCorruptError: the file's size or hash is not as it should be.
        """
        path = root / self.path
        with path.open("rb") as file:
            found = hashlib.file_digest(file, _HASHES[self.algorithm]).hexdigest()
        size = path.stat().st_size
        if (size, found) != (self.size, self.digest):
            what = "truncated or half downloaded" if size < self.size else "not the file it should be"
            raise DataCorruptError(
                f"load_data: {path} is {what}: expected {self.size} bytes with {self.algorithm} "
                f"{self.digest}; found {size} bytes with {self.algorithm} {found}. Delete the file, then "
                "download or unpack it again"
            )
        return path

    def __str__(self) -> str:
        return f"{self.path} ({self.size} bytes, {self.algorithm} {self.digest})"


def missing(files: tuple[KnownFile, ...], root: Path) -> list[str]:
    """The full paths of those files that do not exist."""
    return [str(root / file.path) for file in files if not (root / file.path).is_file()]


def ways_out(root: Path) -> str:
    """How to point the loader at data, for the end of an error message."""
    return (
        f"The root looked in is {root}; choose another by the argument root or the environment variable PYRO_VAE_DATA"
    )
