"""Runs an example as its user does, with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

import forks

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_from_scratch(
    script: str, *flags: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """In a new interpreter, which imports all that it needs."""
    # Importing torch 2.6 leaves a temporary directory behind.
    warnings = ["-W", "error", "-W", "ignore:Implicitly cleaning up:ResourceWarning"]
    return subprocess.run(
        [sys.executable, *warnings, EXAMPLES / script, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        cwd=cwd,
    )


def run_example(
    script: str, *flags: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same in a fork of a process that has imported torch and Pyro, which saves their seconds."""
    return forks.run_script(EXAMPLES / script, *flags, cwd=cwd, environment={**os.environ, **environment})
