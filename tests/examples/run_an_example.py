"""Runs an example as its user does, with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(
    script: str, *flags: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
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
