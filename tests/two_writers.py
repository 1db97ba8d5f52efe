"""What the processes of `test_files.py` run at the same time."""

import os
import time
from functools import partial
from pathlib import Path

import torch

from pyro_vae import compare, fit
from pyro_vae.errors import CheckpointError, RunError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.runtime.files import alone_in, write_bytes

SIZE = 40_000
"""Bytes of a content: many pages, so that a torn one would be seen."""


def content(writer: int, number: int) -> bytes:
    """Return what a writer writes: its name and the number, over and over."""
    return (f"{writer}:{number};".encode() * SIZE)[:SIZE]


def write_often(file: str, writer: int, times: int, failed: str) -> None:
    """Write a file many times, and keep the first error."""
    os.fsync = lambda _: None  # what the disk does costs most of the time, and is not asked here
    try:
        for number in range(times):
            write_bytes(Path(file), content(writer, number))
    except CheckpointError as error:
        Path(failed).write_text(str(error))


def hold(folder: str) -> None:
    """Work in a run folder until killed."""
    with alone_in(Path(folder)):
        Path(folder, "held").touch()
        time.sleep(600)


def pair_and_data():
    torch.manual_seed(0)
    return VAE((4,), 2, (3,)), MeanFieldGuide((4,), 2, (3,)), torch.bernoulli(torch.full((40, 4), 0.5))


def fit_into(out: str, said: str, epochs: int = 3000) -> None:
    """Fit, and keep what it is refused with."""
    torch.set_num_threads(1)
    try:
        adam = partial(torch.optim.Adam, lr=1e-3)
        fit(*pair_and_data(), epochs=epochs, batch_size=20, compile="off", optimizer=adam, out=out, resume=True)
    except RunError as error:
        Path(said).write_text(str(error))


def compare_into(grid: dict, out: str, said: str) -> None:
    """Run a comparison, and keep its text or what it is refused with."""
    torch.set_num_threads(1)
    try:
        Path(said).write_text(str(compare(grid, out, threads=1)))
    except (RunError, CheckpointError) as error:
        Path(said).write_text(f"refused: {error}")
