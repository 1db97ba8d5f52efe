"""The log-weights of many data under many samples, a cacheful at a time."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.errors import NonFiniteError
from pyro_vae.fit.batches import check_rows
from pyro_vae.graph import NotTraceable, capture, unlike
from pyro_vae.log_weights import check_num_samples, subsample_blocks
from pyro_vae.nonfinite import check_finite
from pyro_vae.pair import Pair
from pyro_vae.programs import as_args, in_mode, modules_of
from pyro_vae.protocols import Program
from pyro_vae.support import check_support

logger = logging.getLogger("pyro_vae")

ROWS = 1280
"""Rows a decoder call: enough for the matmuls' pace, few enough that outputs (4 MB of 784 pixels) stay in cache."""

HEAD = 128
"""Data that a pair is first run on, to learn what it needs."""

VALUES = 8_000_000
"""Decoder outputs a call (32 MB), where a datum has many: fewer rows then."""

CALLS = 64
"""Calls whose weights are handed on together, so that what is done with them costs little beside them."""

CALLS_WORTH_A_GRAPH = 100
"""Capturing a graph costs a tenth of a second or more, and saves a few milliseconds a call."""


@dataclass(frozen=True)
class Chunk:
    """Some samples of some data: which data, and the terms of their log-weights, ``(samples, data)`` in nats.

    The next chunk may lie in the same memory.
    """

    data: slice
    reconstruction: Tensor
    minus_rate: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x)."""
        return self.reconstruction + self.minus_rate


class Stream:
    """Iterates over all samples of all data; every datum gets exactly ``num_samples``.

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x).
        x: data, or a tuple of all arguments, of which tensors as long as the first are cut into blocks.
        num_samples: samples for each datum.
        plate: the batch plate's name, where several would do.
        progress: show a bar; None shows it on a terminal only.
    """

    def __init__(
        self,
        who: str,
        model: Program,
        guide: Program,
        x: Any,
        num_samples: int,
        plate: str | None,
        progress: bool | None,
    ) -> None:
        check_num_samples(who, num_samples)
        self._who, self._model, self._guide = who, model, guide
        self._args, self._num_samples, self._progress = as_args(x), num_samples, progress
        first = self._args[0]
        if not isinstance(first, Tensor):
            raise ValueError(f"{who}: x must be a tensor, or a tuple that starts with one; got {type(first)}.")
        check_rows(f"{who}: x", first)
        self._modules = modules_of(model, guide)
        self._device = next((p.device for m in self._modules for p in m.parameters()), first.device)
        self.size = len(first)
        self.event_dim = first.ndim - 1
        head = self._block(slice(0, min(self.size, HEAD, ROWS)))
        with in_mode(self._modules, training=False):
            try:
                self.pair = Pair(model, guide, head, plate)
                picks_rows = self.pair.plate.size < len(head[0])
            except (IndexError, ValueError) as error:
                # A plate with a size or subsample of its own may reach beyond the head.
                if len(head[0]) == self.size or isinstance(error, NonFiniteError):
                    raise
                picks_rows = True
            if picks_rows:
                # Such a plate is shown everything, and told which rows to take.
                head = self._block(slice(0, self.size))
                self.pair = Pair(model, guide, head, plate)
            self._picks_rows = picks_rows and self.pair.plate.full_size == self.size
            if len(head) == 1:
                check_support(model, first.to(self._device), head[0])
            self._vectorizes = self.pair.vectorizes
            self._rows = min(ROWS, max(1, VALUES // max(1, self.pair.outputs)))

    def __iter__(self) -> Iterator[Chunk]:
        with torch.no_grad(), in_mode(self._modules, training=False), pyro.validation_enabled(False):
            bar = tqdm(
                total=self.size,
                unit=" data",
                desc=self._who,
                disable=None if self._progress is None else not self._progress,
                dynamic_ncols=True,
            )
            with bar:
                for chunk, count in self._subsampled() if self._picks_rows else self._blocks():
                    yield chunk
                    bar.update(count)

    def _blocks(self) -> Iterator[tuple[Chunk, int]]:
        """Visit the data in blocks of one size; the last block is filled up with data from before it."""
        samples = self._num_samples
        if self._vectorizes:
            width = _evenly(self.size, min(self._rows, max(1, CALLS * self._rows // samples)))
            step = _evenly(samples, max(1, CALLS * self._rows // width))
        else:
            width, step = min(self.size, self._rows), min(samples, CALLS)
        chunks = math.ceil(samples / step)
        run = self._runner(width, step, chunks * math.ceil(self.size / width))
        for start in range(0, self.size, width):
            shift = max(0, start + width - self.size)
            where = slice(start, min(start + width, self.size))
            block = self._block(slice(start - shift, start - shift + width))
            for chunk in range(chunks):
                count = min(step, samples - chunk * step)
                reconstruction, minus_rate = (t[:count, shift:] for t in run(*block))
                check_finite(self._who, self._model, self._guide, block, reconstruction + minus_rate)
                done = where.stop - where.start if chunk == chunks - 1 else 0
                yield Chunk(where, reconstruction, minus_rate), done

    def _subsampled(self) -> Iterator[tuple[Chunk, int]]:
        everything = self._block(slice(0, self.size))
        size = self.pair.plate.size
        step = max(1, self._rows // size)
        for index, rows in enumerate(subsample_blocks(self.pair, everything)):
            where = slice(index * size, min((index + 1) * size, self.size))
            width = where.stop - where.start
            for begin in range(0, self._num_samples, step):
                terms = self.pair.terms(everything, min(step, self._num_samples - begin), rows)
                check_finite(self._who, self._model, self._guide, everything, terms.log_weight)
                minus_rate = terms.log_prior - terms.log_guide
                done = width if begin + step >= self._num_samples else 0
                yield Chunk(where, terms.reconstruction[:, :width], minus_rate[:, :width]), done

    def _runner(self, width: int, step: int, chunks: int) -> Callable[..., list[Tensor]]:
        """Return the function from a block of ``width`` data to its terms for at least ``step`` samples."""
        samples = _evenly(step, max(1, self._rows // width)) if self._vectorizes else step
        calls = math.ceil(step / samples)
        draws_on = self._draws(width, samples, calls * chunks)
        if calls == 1:
            return lambda *block: draws_on(*block)()
        whole: list[Tensor] = []

        def run(*block: Any) -> list[Tensor]:
            draw = draws_on(*block)
            for index in range(calls):
                found = draw()
                if not whole:
                    whole.extend(part.new_empty(calls * samples, *part.shape[1:]) for part in found)
                for kept, part in zip(whole, found, strict=True):
                    kept[index * samples : (index + 1) * samples] = part
            return whole

        return run

    def _draws(self, width: int, samples: int, calls: int) -> Callable[..., Callable[[], list[Tensor]]]:
        """Return the function from a block to what draws its terms, as a graph where that pays and can be had."""

        def terms(*block: Any) -> list[Tensor]:
            found = self.pair.terms(block, samples)
            return [found.reconstruction, found.log_prior - found.log_guide]

        def without_a_graph(*block: Any) -> Callable[[], list[Tensor]]:
            return partial(terms, *block)

        block = self._block(slice(0, width))
        if calls < CALLS_WORTH_A_GRAPH or not self._vectorizes or not all(isinstance(a, Tensor) for a in block):
            return without_a_graph
        other = [unlike(arg) if arg.ndim else arg for arg in self._block(slice(self.size - width, self.size))]
        try:
            return capture(terms, list(block), other, self._modules).on
        except NotTraceable as reason:
            logger.warning("%s: runs without a graph, which is slower: %s", self._who, reason)
            return without_a_graph

    def _block(self, where: slice) -> tuple[Any, ...]:
        return tuple(
            arg[where].to(self._device) if isinstance(arg, Tensor) and arg.ndim and len(arg) == self.size else arg
            for arg in self._args
        )


def _evenly(total: int, most: int) -> int:
    """Return how many to take at a time, more than half of ``most``, so that the last time misses the fewest."""
    most = min(most, total)
    return min(range(most, most // 2, -1), key=lambda count: math.ceil(total / count) * count)
