"""Grids of cells that take a second or two, and how a process runs one."""

import json
import os
from pathlib import Path
from typing import Any

import forks
import pandas as pd

COMMON: dict[str, Any] = {
    "data": "mnist-5k", "latent_dim": 2, "hidden_dims": [10], "batch_size": 200, "num_test": 20, "num_samples": 30,
    "elbo_samples": 5, "compile": "off",
}  # fmt: skip

COSTS = ["fit_seconds", "evaluation_seconds", "path"]
"""Columns of the table that another run changes."""

SCRIPT = """
import json, sys
from pyro_vae.comparison import compare

if __name__ == "__main__":
    grid, out, options = sys.argv[1:]
    compare(json.loads(grid), out, progress=True, **json.loads(options))
"""


def start(grid: dict, out: Path, **options: Any) -> forks.Program:
    """Start a process that runs a grid."""
    script = out.parent / "run_a_grid.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = json.dumps(grid), str(out), json.dumps(options)
    return forks.Program(script, *words, warn="ignore", environment=environment)


def events(out: Path) -> list[dict]:
    """What the log says, in its order."""
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table without what the clock and the folder say."""
    return table.drop(columns=COSTS)
