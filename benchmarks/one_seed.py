"""The training of one seed, kept in its process from call to call: what the sides of ``seeds.py`` are made of.

A module of its own, because a pool's processes import what they run and cannot import a script.
"""

import os
from functools import cache

import torch

from benchmarks.batches import NumberedBatches
from benchmarks.step import HIDDEN_DIMS
from benchmarks.timing import Side
from benchmarks.training import X_DIM, ours


def train(batch_size: int, steps: int, threads: int, level: str, index: int) -> int:
    """Take the steps of one epoch, and return the number of the process that took them.

    Args:
        batch_size: data a step.
        steps: how many.
        threads: how many a step has.
        level: of ``fit(compile=...)``.
        index: of the epoch.
    """
    torch.set_num_threads(threads)
    _training(batch_size, steps, threads, level)(index)
    return os.getpid()


@cache
def _training(batch_size: int, steps: int, threads: int, level: str) -> Side:
    """Return the training; one for each number of threads, because a compiled graph keeps the one it was made with."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels = torch.randint(0, 2, (steps * batch_size, X_DIM), dtype=torch.uint8).float()
    batches = NumberedBatches(pixels, batch_size)
    return ours(batches, HIDDEN_DIMS[batch_size], level)
