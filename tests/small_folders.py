"""Run folders and comparisons that take a second: sixty images of sixteen pixels."""

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.comparison import Cell, compare
from pyro_vae.comparison.run_cell import run_cell


def settings(data: Path) -> dict[str, Any]:
    """A cell's, on data of a file."""
    return {
        "data": str(data), "binarization": "threshold", "latent_dim": 2, "hidden_dims": [3], "epochs": 2,
        "batch_size": 10, "num_test": 5, "num_samples": 30, "elbo_samples": 3, "compile": "off",
    }  # fmt: skip


def write_images(file: Path, seed: int = 0) -> Path:
    """Images in a NumPy file."""
    np.save(file, np.random.default_rng(seed).integers(0, 256, (60, 4, 4), dtype=np.uint8))
    return file


def write_run(folder: Path, data: Path, **more: Any) -> Path:
    """A run as ``pyro-vae fit`` leaves it."""
    run_cell(Cell.of(settings(data) | more), folder)
    return folder


def write_comparison(folder: Path, data: Path, **more: Any) -> Path:
    """A comparison of two guides on one model."""
    grid = {"design": "frozen", "common": settings(data) | more, "grid": {"guide": ["mean_field", "full_rank"]}}
    compare(grid, folder, threads=1)
    return folder
