"""Download through torchvision, so that a failure is quick, clear and leaves nothing behind."""

import http.client
import queue
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.known_file import KnownFile, missing, not_found
from pyro_vae.data.source import Request

ANSWER_SECONDS = 10.0
"""Time after which a host counts as failed. If it drops packets, urllib would wait minutes for each address."""

STALL_SECONDS = 30.0
"""Time without a byte after which a download counts as failed."""


def fetch(
    name: str, torchvision_name: str, files: tuple[KnownFile, ...], request: Request, *, folder: str = "",
    calls: Sequence[Mapping[str, Any]] = ({"train": True},),
) -> None:  # fmt: skip
    """Download the files of a data set where some are missing.

    Args:
        name: of the data set, for messages.
        torchvision_name: its class in `torchvision.datasets`.
        files: which it must have.
        request: where the files are, and whether they may be fetched.
        folder: as for :func:`download_with_torchvision`.
        calls: likewise.

    Raises:
        DataNotFoundError: the download is not allowed, or fails.
    """
    absent = missing(files, request.root)
    if not absent:
        return
    reason, cause = "download=False forbids to fetch it", None
    if request.download:
        try:
            return download_with_torchvision(torchvision_name, files, request.root, folder=folder, calls=calls)
        except (OSError, RuntimeError) as error:
            reason, cause = f"the download failed ({error})", error
    raise not_found(
        name,
        reason,
        absent,
        request.root,
        "Without a network, put the uncompressed files there by hand, or use what is already installed: 'mnist-5k', "
        "5000 real MNIST images (not comparable with published tables), 'digits', or 'photo-patches', in colour.",
    ) from cause


def download_with_torchvision(
    torchvision_name: str, files: tuple[KnownFile, ...], root: Path, *, folder: str = "",
    calls: Sequence[Mapping[str, Any]] = ({"train": True},),
) -> None:  # fmt: skip
    """Let a class of `torchvision.datasets` fetch its files, and move them under ``root`` once verified.

    The download happens in a temporary folder beside its goal, so that an interrupted download leaves no
    half file that could be taken for a whole one. torchvision shows a progress bar on stderr.

    Args:
        torchvision_name: the class, e.g. "MNIST".
        files: the uncompressed files that it makes.
        root: the data root; created where it does not exist.
        folder: in the root, for a class that makes none of its own.
        calls: arguments of the class, for each call that fetches some of the files.

    Raises:
        OSError: no mirror answers, the connection breaks, or the disk refuses.
        RuntimeError: torchvision gave up, or what it fetched is not what it should be.
    """
    import torchvision.datasets  # Slow to import, and seldom needed.

    cls = getattr(torchvision.datasets, torchvision_name)
    _require_an_answer(_addresses(cls))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary, ExitStack() as stack:
        # torchvision sets no limit, but heeds Python's default.
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            for arguments in calls:
                cls(str(Path(temporary, folder)), **arguments, download=True)
            fetched = [file.check(Path(temporary)) for file in files]
        except (http.client.HTTPException, DataCorruptError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        for path, file in zip(fetched, files, strict=True):
            (root / file.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(root / file.path)


def _addresses(cls: Any) -> list[str]:
    """Return addresses of which one must answer: the mirrors of a class's first file, or its only one."""
    if hasattr(cls, "mirrors"):
        return [f"{mirror}{cls.resources[0][0]}" for mirror in cls.mirrors]
    return [cls.url] if hasattr(cls, "url") else [cls.split_list["train"][0]]


def _require_an_answer(urls: list[str], seconds: float = ANSWER_SECONDS) -> None:
    """Return as soon as one host answers; raise a ConnectionError if all fail, or none answers in time."""
    answers: queue.Queue[str | None] = queue.Queue()

    def ask(url: str) -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answers.put(None)
        except urllib.error.HTTPError:
            answers.put(None)  # It refuses this request, but there is a host.
        except (OSError, http.client.HTTPException) as error:
            answers.put(f"{url}: {error}")

    # Daemon threads, since looking a name up cannot be given a time limit: one that hangs must not keep us.
    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    failures: list[str] = []
    try:
        while len(failures) < len(urls):
            failure = answers.get(timeout=seconds)
            if failure is None:
                return
            failures.append(failure)
    except queue.Empty:
        failures.append(f"no answer within {seconds:.0f} seconds from {', '.join(urls)}")
    raise ConnectionError("; ".join(failures))
