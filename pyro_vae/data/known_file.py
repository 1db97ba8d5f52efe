"""Files and arrays whose exact content is known beforehand."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_vae.data.errors import DataCorruptError, DataNotFoundError


@dataclass(frozen=True)
class KnownFile:
    """A file, relative to the data root, with the hash it must have, and its size where that is known.

    Attributes:
        path: relative to the root, with forward slashes.
        size: in bytes, or None.
        algorithm: "md5" or "sha256".
        digest: hexadecimal.
    """

    path: str
    size: int | None
    algorithm: str
    digest: str

    def is_there(self, root: Path) -> bool:
        """Whether a file of this size, or any where it is unknown, lies under ``root``; the content is not read."""
        path = root / self.path
        return path.is_file() and (path.stat().st_size == self.size or self.size is None)

    def check(self, root: Path) -> Path:
        """Return the file's full path, once its content has been verified.

        Raises:
            DataCorruptError: the file's size or hash is not as it should be.
        """
        path = root / self.path
        with path.open("rb") as file:
            # md5 is used to find damage, not attacks: systems that forbid it for security allow it under this argument.
            digest = hashlib.file_digest(file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()
        size = path.stat().st_size
        expected_size = size if self.size is None else self.size
        if (size, digest) != (expected_size, self.digest):
            what = "truncated or half downloaded" if size < expected_size else "not the file it should be"
            expected = "a file" if self.size is None else f"{self.size} bytes"
            raise DataCorruptError(
                f"load_data: {path} is {what}: expected {expected} with {self.algorithm} "
                f"{self.digest}; found {size} bytes with {self.algorithm} {digest}. Delete the file, then "
                "download or unpack it again."
            )
        return path

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size} bytes, "
        return f"{self.path} ({size}{self.algorithm} {self.digest})"


def folder_of_package(name: str) -> Path:
    """Return the folder of an installed package without importing it, which may take a second.

    >>> folder_of_package("sklearn").name
    'sklearn'
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise DataNotFoundError(f"load_data: the package {name} is not installed, and its data are missing.")
    return Path(spec.origin).parent


def missing(files: tuple[KnownFile, ...], root: Path) -> str:
    """Return the full paths of those files that do not exist, "" if all do."""
    return ", ".join(str(root / file.path) for file in files if not (root / file.path).is_file())


def not_found(name: str, reason: str, expected: str, root: Path, instead: str) -> DataNotFoundError:
    """Return an error that says which files of a data set are missing, and the ways out.

    Args:
        name: of the data set.
        reason: why it was not fetched.
        expected: the missing files, and how to recognise them.
        root: the folder that was searched.
        instead: what to do without the files.
    """
    return DataNotFoundError(
        f"load_data: {name!r} was not found, and {reason}. Missing: {expected}. The root looked in is {root}; choose "
        f"another by the argument root or the environment variable PYRO_VAE_DATA. {instead}"
    )


def require_content(array: np.ndarray, sha256: str, where: object, remedy: str) -> None:
    """Refuse an array whose bytes, in C order, have another sha256 sum than expected.

    Raises:
        DataCorruptError: the sums differ; the message names the file ``where`` and ends with the ``remedy``.
    """
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    if digest != sha256:
        raise DataCorruptError(
            f"load_data: {where} holds other images than it should: expected sha256 {sha256}; found {array.shape} "
            f"{array.dtype} with sha256 {digest}. {remedy}"
        )
