"""The log-weights of many data under many samples, a cacheful at a time."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError, OutOfMemoryError
from pyro_vae.evaluation.over_data.rows import HEAD, Rows
from pyro_vae.graphs.capture import unlike
from pyro_vae.graphs.levels import TermDraws, check_level
from pyro_vae.programs.log_weights import check_num_samples, subsample_blocks
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.nonfinite import check_finite
from pyro_vae.programs.pair import SOFT_TARGETS, Pair
from pyro_vae.programs.particles import LogTerms
from pyro_vae.programs.precision import Rounding
from pyro_vae.programs.support import check_support
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory, keep_freed_memory
from pyro_vae.runtime.progress import progress_bar
from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

ROWS = 1280
"""Rows a decoder call: enough for the matmuls' pace, few enough that outputs (4 MB of 784 pixels) stay in cache.

As a graph and compiled, any number from 640 to 5000 was as fast within noise."""

VALUES = 8_000_000
"""Decoder outputs a call (32 MB), where a datum has many: fewer rows then."""

CALLS = 64
"""Calls whose weights are handed on together, so that what is done with them costs little beside them."""

BLOCKS = 16
"""Blocks of data of like demand, where there are data enough: the datum that asks for most decides for its block."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Chunk:
    """Some samples of some data: which data, and the terms of their log-weights, ``(samples, data)`` in nats.

    The next chunk may lie in the same memory.
    """

    data: slice | Tensor
    """Where the data are: a slice, or their numbers."""
    reconstruction: Tensor
    minus_rate: Tensor
    block: int
    """The number of the block that these data are; all chunks of a block come one after the other."""

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
        compile: at which level the terms are drawn, one of :data:`pyro_vae.graphs.levels.LEVELS`.
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
        compile: str,
    ) -> None:
        check_num_samples(who, num_samples)
        check_level(who, compile)
        self.who, self._model, self._guide, self._plate = who, model, guide, plate
        self._num_samples, self._progress, self.level = num_samples, progress, compile
        self._order: Tensor | None = None
        self._kept: _ChunkTerms | None = None
        self._data = Rows(who, x, model, guide, plate)
        self.size, self.unit, self.modules = self._data.size, self._data.unit, self._data.modules
        self.rows, self._halved = HEAD, False
        with in_mode(self.modules, training=False):
            self._fits(self._probe)
        self.rows, self._halved = min(ROWS, max(1, VALUES // max(1, self.pair.outputs))), False

    def refuse_whole(self, needs: str) -> None:
        """Refuse a pair that takes all data at once: :meth:`~pyro_vae.evaluation.over_data.rows.Rows.refuse_whole`."""
        self._data.refuse_whole(needs)

    def _probe(self) -> None:
        """Run the pair once on some data."""
        whole = self._data.why_whole is not None
        head = self.block(0, self.size if whole else min(self.size, self.rows, ROWS))
        try:
            self.pair = Pair(self._model, self._guide, head, self._plate)
            picks_rows = whole or self.pair.plate.size < len(head[0])
        except (IndexError, ValueError) as error:
            # A plate with a size or subsample of its own may reach beyond the head.
            if len(head[0]) == self.size or isinstance(error, NonFiniteError):
                raise
            picks_rows = True
        if picks_rows and not whole:
            # Such a plate is shown everything, and told which rows to take.
            head = self.block(0, self.size)
            self.pair = Pair(self._model, self._guide, head, self._plate)
        self.picks_rows = picks_rows and self.pair.plate.full_size == self.size
        self._seen = slice(0, len(head[0]))
        self._data.widen(self._seen, self.pair)
        if len(head) == 1:
            check_support(self._model, self._data.take(slice(None))[0], head[0])
        self.pair.check_circles()
        self.pair.require_density(self.who)
        if not self.picks_rows:
            self._data.check_masks(self.pair)
        elif self.pair.masked:
            for rows in subsample_blocks(self.pair, head[0].device):
                self.pair.check_masks(head, rows)
        self.caveat = self.pair.caveat or SOFT_TARGETS
        """Why there is no bound, where ``pair.normalized`` says that there is none."""
        self.vectorizes = self.pair.vectorizes

    @cached_property
    def rounding(self) -> Rounding:
        """How large the roundings in log-weights are, as measured on the first data and on those far from them."""
        with in_mode(self.modules, training=False):
            return self._data.rounding(self._seen, self.pair)

    def __iter__(self) -> Iterator[Chunk]:
        return self._shown(self._subsampled() if self.picks_rows else self._blocks())

    def draw(self, num_samples: Tensor, step: int, later: int = 0) -> Iterator[Chunk]:
        """Visit the data in blocks of like demand; each block gets the samples of its datum that asks for most.

        Where this is called again with the same step, a graph that was captured serves again.

        Args:
            num_samples: for each datum, ``(N,)``.
            step: samples that a chunk has a multiple of; so many of as many data as fit are drawn in a call.
            later: samples of one datum that later calls are expected to ask for, on average.
        """
        return self._shown(self._sorted_blocks(num_samples, step, later))

    def _shown(self, visits: Iterator[tuple[Chunk, int]]) -> Iterator[Chunk]:
        """Run the pair as it is evaluated, and show a bar of the data that are done."""
        keep_freed_memory()
        with (
            torch.no_grad(), in_mode(self.modules, training=False), pyro.validation_enabled(False),
            progress_bar(self.size, " data", self.who, shown=self._progress) as bar,
        ):  # fmt: skip
            for chunk, count in visits:
                yield chunk
                bar.update(count)

    def _blocks(self) -> Iterator[tuple[Chunk, int]]:
        """Visit the data in blocks of one size."""
        samples = self._num_samples
        if self.vectorizes:
            width = _evenly(self.size, min(self.rows, max(1, CALLS * self.rows // samples)))
            step = _evenly(samples, max(1, CALLS * self.rows // width))
        else:
            width, step = min(self.size, self.rows), min(samples, CALLS)
        left = math.ceil(samples / step) * math.ceil(self.size / width)
        terms_of = _ChunkTerms(self, width, step)
        for start in range(0, self.size, width):
            yield from self._block(terms_of, start, samples, left)
            left -= math.ceil(samples / step)

    def _sorted_blocks(self, num_samples: Tensor, step: int, later: int) -> Iterator[tuple[Chunk, int]]:
        # The most first: the block that is filled up is then one that asks for little.
        self._order = num_samples.argsort(descending=True, stable=True)
        # Where samples are run one by one, a run costs about the same for any number of data: as many as fit.
        most = min(self.size // BLOCKS, self.rows // step) if self.vectorizes else min(self.size, self.rows)
        width = max(1, most)
        if self._kept is None or self._kept.width != width or self._kept.step != step:
            self._kept = _ChunkTerms(self, width, step)
        try:
            wanted = num_samples[self._order][::width].tolist()
            chunks = [math.ceil(samples / step) for samples in wanted]
            left = sum(chunks) + math.ceil(later / step) * len(wanted)
            for index, samples in enumerate(wanted):
                yield from self._block(self._kept, index * width, samples, left, CALLS)
                left -= chunks[index]
        finally:
            self._order = None

    def _block(
        self, terms_of: "_ChunkTerms", start: int, samples: int, left: int, steps: int = 1
    ) -> Iterator[tuple[Chunk, int]]:
        """Draw samples of the block of data at ``start``; the last block is filled up with data from before it.

        ``left`` steps are to come with this block's, of which a chunk has ``steps``.
        """
        width, step = terms_of.width, terms_of.step
        shift = max(0, start + width - self.size)
        rows = slice(start, min(start + width, self.size))
        where = rows if self._order is None else self._order[rows]
        block = self.block(start - shift, width)
        for drawn in range(0, samples, steps * step):
            count = min(steps * step, samples - drawn)
            times = math.ceil(count / step)
            begin = perf_counter()
            terms = self._fits(partial(terms_of, start - shift, left, times))
            reconstruction, minus_rate = (t[:count, shift:] for t in terms)
            check_finite(self.who, self._model, self._guide, block, reconstruction + minus_rate)
            left -= times
            terms_of.draws.spent((perf_counter() - begin) / times, left)
            done = rows.stop - rows.start if drawn + count == samples else 0
            yield Chunk(where, reconstruction, minus_rate, start // width), done

    def _subsampled(self) -> Iterator[tuple[Chunk, int]]:
        everything = self.block(0, self.size)
        size = self.pair.plate.size
        for index, rows in enumerate(subsample_blocks(self.pair, everything[0].device)):
            where = slice(index * size, min((index + 1) * size, self.size))
            width = where.stop - where.start
            left = self._num_samples
            while left:
                terms = self._fits(partial(self._some_terms, everything, rows, left))
                check_finite(self.who, self._model, self._guide, everything, terms.log_weight)
                minus_rate = terms.log_prior - terms.log_guide
                left -= len(minus_rate)
                yield Chunk(where, terms.reconstruction[:, :width], minus_rate[:, :width], index), 0 if left else width

    def _some_terms(self, everything: tuple[Any, ...], rows: Tensor, most: int) -> LogTerms:
        return self.pair.terms(everything, min(max(1, self.rows // len(rows)), most), rows)

    def _fits(self, work: Callable[[], Result]) -> Result:
        """Do the work, which looks at the row budget; where memory is used up, halve it once and do it again."""
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = in_one_line(error)
        # Out of the handler, so that what the failed attempt held is free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._halved or self.rows == 1:
            outputs = f" and {self.pair.outputs} outputs" if hasattr(self, "pair") else ""
            raise OutOfMemoryError(
                f"{self.who}: out of memory with {self.rows} rows a call{', half of before' if self._halved else ''}; "
                f"a datum has {self._data.args[0][0].numel()} numbers{outputs}. Free memory that others hold, move "
                f"model and guide to a device with more, or make the networks smaller. It said: {reason}"
            )
        self._halved, self.rows = True, self.rows // 2
        logger.warning("%s: out of memory; continues with %d rows a call, half of before", self.who, self.rows)
        return self._fits(work)

    def block(self, start: int, width: int) -> tuple[Any, ...]:
        """Return the arguments with ``width`` data from ``start`` on, in the visit's order, on the pair's device."""
        rows = slice(start, start + width) if self._order is None else self._order[start : start + width]
        return self._data.take(rows)


class _ChunkTerms:
    """Computes the terms of ``step`` samples or more of ``width`` data, in calls of as many rows as the stream allows.

    Args:
        stream: whose pair, data and row budget; a budget that has changed makes a new plan.
        width: data a block.
        step: samples a step.
    """

    def __init__(self, stream: Stream, width: int, step: int) -> None:
        self._stream, self.width, self.step = stream, width, step
        self._rows = 0
        self._whole: list[Tensor] = []
        self.draws: TermDraws

    def __call__(self, start: int, left: int, times: int = 1) -> list[Tensor]:
        """Return ``times`` steps of the block at ``start``, when ``left`` steps are to come with these."""
        if self._rows != self._stream.rows:
            self._plan(left)
        if self._calls * times == 1 and self._columns == self.width:
            return self.draws.on(*self._stream.block(start, self.width))()
        shape = self._calls * self._samples * times, self.width
        for column in range(0, self.width, self._columns):
            # The last columns are filled up with some before them.
            first = min(column, self.width - self._columns)
            draw = self.draws.on(*self._stream.block(start + first, self._columns))
            for index in range(self._calls * times):
                found = draw()
                if not self._whole or self._whole[0].shape != shape:
                    self._whole = [part.new_empty(shape) for part in found]
                for kept, part in zip(self._whole, found, strict=True):
                    kept[index * self._samples : (index + 1) * self._samples, first : first + self._columns] = part
        return self._whole

    def _plan(self, left: int) -> None:
        stream, rows = self._stream, self._stream.rows
        self._columns = columns = _evenly(self.width, rows)
        self._samples = samples = _evenly(self.step, max(1, rows // columns)) if stream.vectorizes else self.step
        self._calls = math.ceil(self.step / samples)
        self._whole = []

        def terms(*block: Any) -> list[Tensor]:
            found = stream.pair.terms(block, samples)
            return [found.reconstruction, found.log_prior - found.log_guide]

        block = stream.block(0, columns)
        other = tuple(
            unlike(a) if isinstance(a, Tensor) and a.ndim else a for a in stream.block(stream.size - columns, columns)
        )
        calls = self._calls * math.ceil(self.width / columns) * left
        self.draws = TermDraws(
            stream.who, terms, (block, other), stream.modules, stream.level, calls, stream.vectorizes
        )
        self._rows = rows


def _evenly(total: int, most: int) -> int:
    """Return how many to take at a time, more than half of ``most``, so that the last time misses the fewest."""
    most = min(most, total)
    return min(range(most, most // 2, -1), key=lambda count: math.ceil(total / count) * count)
