"""Download through torchvision, so that a failure is quick, clear and leaves nothing behind."""

import http.client
import queue
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.known_file import KnownFile

ANSWER_SECONDS = 10.0
"""Time after which a host counts as failed. If it drops packets, urllib would wait minutes for each address."""

STALL_SECONDS = 30.0
"""Time without a byte after which a download counts as failed."""


def download_with_torchvision(torchvision_name: str, files: tuple[KnownFile, ...], root: Path) -> None:
    """Let a class of `torchvision.datasets` fetch its files, and move them under ``root`` once verified.

    The download happens in a temporary folder beside its goal, so that an interrupted download leaves no
    half file that could be taken for a whole one. torchvision shows a progress bar on stderr.

    Args:
        torchvision_name: the class, e.g. "MNIST".
        files: the uncompressed files that it makes.
        root: the data root; created where it does not exist.

    Raises:
        OSError: no mirror answers, the connection breaks, or the disk refuses.
        RuntimeError: torchvision gave up, or what it fetched is not what it should be.
    """
    import torchvision.datasets  # Slow to import, and seldom needed.

    cls = getattr(torchvision.datasets, torchvision_name)
    _require_an_answer([f"{mirror}{cls.resources[0][0]}" for mirror in cls.mirrors])
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder, ExitStack() as stack:
        # torchvision sets no limit, but heeds Python's default.
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            cls(folder, train=True, download=True)
            fetched = [file.check(Path(folder)) for file in files]
        except (http.client.HTTPException, DataCorruptError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        for path, file in zip(fetched, files, strict=True):
            (root / file.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(root / file.path)


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
