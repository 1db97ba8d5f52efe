"""Processes that import nothing: forks of one that has imported torch, Pyro and what programs of this package need."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent

PATIENCE_S = 300
"""No program should need this long, also on a busy machine."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["pyro_vae", "pyro_vae.cli", "pyro_vae.comparison", "torch._dynamo", "matplotlib.figure", "pytest"]
)


def start(function: Callable[..., object], *args: Any, daemon: bool = True) -> BaseProcess:
    """Start a function in a process of its own; one that starts processes itself is no daemon."""
    process = _context.Process(target=function, args=args, daemon=daemon)
    process.start()
    return process


class Program:
    """``python -W FILTER SCRIPT WORDS``, in a process that is used as that of ``subprocess.Popen``."""

    def __init__(
        self, script: Path, *words: str, warn: str, environment: dict[str, str], cwd: Path | None = None
    ) -> None:
        self.args = [str(script), *words]
        pipes = [_context.Pipe(duplex=False) for _ in range(2)]
        writers = [writer for _, writer in pipes]
        self._process = start(_run, script, words, warn, environment, cwd or Path.cwd(), *writers, daemon=False)
        for writer in writers:
            writer.close()
        self._readers = [reader for reader, _ in pipes]

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end of the process, and of those that print where it does; return what was printed."""
        with ThreadPoolExecutor(2) as threads:
            texts = [threads.submit(_text_of, reader) for reader in self._readers]
            late = wait(texts, timeout).not_done
            if late:
                self.kill()
        self._process.join()
        if late:
            raise subprocess.TimeoutExpired(self.args, timeout)
        out, err = (text.result() for text in texts)
        return out, err


def run_script(
    script: Path, *words: str, environment: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, warnings as errors."""
    program = Program(script, *words, warn="error", environment=environment, cwd=cwd)
    out, err = program.communicate(PATIENCE_S)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def _text_of(reader: Connection) -> str:
    with os.fdopen(os.dup(reader.fileno())) as file:
        reader.close()
        return file.read()


def _run(
    script: Path, words: tuple[str, ...], warn: str, environment: dict[str, str], cwd: Path, *outputs: Connection
) -> None:
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
        output.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.warnoptions[:] = [warn]
    warnings.resetwarnings()
    warnings.simplefilter(warn)
    sys.argv = [str(script), *words]
    sys.path[:] = [str(script.parent), *(path for path in sys.path if not Path(path).is_relative_to(TESTS))]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        # As an interpreter does at its end; a process of multiprocessing first waits for those that it has started.
        threading._shutdown()
        atexit._run_exitfuncs()
