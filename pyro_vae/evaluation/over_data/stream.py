"""The log-weights of many data under many samples, a cacheful at a time."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError, OutOfMemoryError
from pyro_vae.evaluation.over_data.pair_rows import PairRows
from pyro_vae.evaluation.over_data.rows import rows_a_call
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.graphs.capture import unlike
from pyro_vae.graphs.levels import TermDraws, check_level
from pyro_vae.programs.log_weights import subsample_blocks
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.nonfinite import check_finite
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import LogTerms
from pyro_vae.programs.precision import Rounding
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

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
    """The number of the block of data; all chunks of a block come one after the other."""

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x)."""
        return self.reconstruction + self.minus_rate


class Stream(PairRows):
    """Iterates over all samples of all data; every datum gets exactly ``num_samples``.

    Args: as for :class:`pyro_vae.evaluation.over_data.rows.Rows`, and
        num_samples: samples for each datum.
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
        check_count(who, "num_samples", num_samples)
        check_level(who, compile)
        super().__init__(who, x, model, guide, plate, progress)
        self._num_samples, self.level = num_samples, compile
        self._order: Tensor | None = None
        self._chunk_terms: _ChunkTerms | None = None
        self.rows, self._halved = current_sizes().head, False
        with in_mode(self.modules, training=False):
            self._fits(self._probe)
        self.rows, self._halved = rows_a_call(self.pair.outputs), False

    def _probe(self) -> None:
        """Run the pair once on some data."""
        whole = self.why_whole is not None
        head = self.block(0, self.block_of(self.rows))
        try:
            pair = Pair(self.model, self.guide, head, self.plate)
            picks_rows = whole or pair.plate.size < len(head[0])
        except (IndexError, ValueError) as error:
            # A plate with a size or subsample of its own may reach beyond the head.
            if len(head[0]) == self.size or isinstance(error, NonFiniteError):
                raise
            picks_rows = True
        if picks_rows and not whole:
            # Such a plate is given all data, and told which rows to take.
            head = self.block(0, self.size)
            pair = Pair(self.model, self.guide, head, self.plate)
        self.picks_rows = picks_rows and pair.plate.full_size == self.size
        self.learn(pair, slice(0, len(head[0])))
        self.check_support(self.model, head)
        pair.require_density(self.who)
        if not self.picks_rows:
            self.check_masks(pair)
        elif pair.masked:
            for rows in subsample_blocks(pair, head[0].device):
                pair.check_masks(head, rows)
        self.vectorizes = pair.vectorizes

    @cached_property
    def rounding(self) -> Rounding:
        """How large the roundings in log-weights are, measured in runs that fit into memory."""
        return self._fits(lambda: self.measure_rounding(self.rows))

    def __iter__(self) -> Iterator[Chunk]:
        if self.picks_rows:
            return self._subsampled()
        samples, calls = self._num_samples, current_sizes().calls
        if self.vectorizes:
            width = _evenly(self.size, min(self.rows, max(1, calls * self.rows // samples)))
            step = _evenly(samples, max(1, calls * self.rows // width))
        else:
            width, step = min(self.size, self.rows), min(samples, calls)
        num_blocks = math.ceil(self.size / width)
        left = math.ceil(samples / step) * num_blocks
        return self._visit(_ChunkTerms(self, width, step), [samples] * num_blocks, left)

    def draw(self, num_samples: Tensor, step: int, later: int = 0) -> Iterator[Chunk]:
        """Visit the data in blocks of like demand; each block gets the samples of its most demanding datum.

        A second call with the same step uses the graph that the first one captured.

        Args:
            num_samples: for each datum, ``(N,)``.
            step: chunks have a multiple of so many samples; a call draws so many of as many data as fit.
            later: samples of a datum that later calls are expected to ask for, on average.
        """
        sizes = current_sizes()
        # The most demanding first: the block that is filled up is then one that asks for little.
        order = num_samples.argsort(descending=True, stable=True)
        # Where samples are run one by one, a run costs about the same for any number of data: as many as fit.
        most = min(self.size // sizes.blocks, self.rows // step) if self.vectorizes else min(self.size, self.rows)
        width = max(1, most)
        if self._chunk_terms is None or self._chunk_terms.width != width or self._chunk_terms.step != step:
            self._chunk_terms = _ChunkTerms(self, width, step)
        wanted = num_samples[order][::width].tolist()
        left = sum(math.ceil(samples / step) for samples in wanted) + math.ceil(later / step) * len(wanted)
        return self._visit(self._chunk_terms, wanted, left, order, sizes.calls)

    def _visit(
        self, terms_of: "_ChunkTerms", wanted: list[int], left: int, order: Tensor | None = None, steps: int = 1
    ) -> Iterator[Chunk]:
        """Visit all blocks; the last one is filled up with data from before it.

        Args:
            terms_of: draws the terms of a block.
            wanted: samples of each block.
            left: steps that are to come, in this visit and later ones.
            order: numbers of the data, in the order of the visit; None takes them as they are.
            steps: the most steps that a chunk has.
        """
        width, step = terms_of.width, terms_of.step
        self._order = order
        try:
            with self.walk() as bar:
                for index, samples in enumerate(wanted):
                    rows = slice(index * width, min((index + 1) * width, self.size))
                    shift = max(0, rows.start + width - self.size)
                    data = rows if order is None else order[rows]
                    block = self.block(rows.start - shift, width)
                    for drawn in range(0, samples, steps * step):
                        count = min(steps * step, samples - drawn)
                        times = math.ceil(count / step)
                        begin = perf_counter()
                        terms = self._fits(partial(terms_of, rows.start - shift, left, times))
                        reconstruction, minus_rate = (term[:count, shift:] for term in terms)
                        check_finite(self.who, self.model, self.guide, block, reconstruction + minus_rate)
                        left -= times
                        terms_of.draws.spent((perf_counter() - begin) / times, left)
                        yield Chunk(data, reconstruction, minus_rate, index)
                    bar.update(rows.stop - rows.start)
        finally:
            self._order = None

    def _subsampled(self) -> Iterator[Chunk]:
        """Visit the data of a plate that draws a subsample: it is given all data, and told which rows to take."""
        everything = self.block(0, self.size)
        size = self.pair.plate.size
        with self.walk() as bar:
            for index, rows in enumerate(subsample_blocks(self.pair, everything[0].device)):
                data = slice(index * size, min((index + 1) * size, self.size))
                width = data.stop - data.start
                left = self._num_samples
                while left:
                    terms = self._fits(partial(self._some_terms, everything, rows, left))
                    check_finite(self.who, self.model, self.guide, everything, terms.log_weight)
                    minus_rate = terms.log_prior - terms.log_guide
                    left -= len(minus_rate)
                    yield Chunk(data, terms.reconstruction[:, :width], minus_rate[:, :width], index)
                bar.update(width)

    def _some_terms(self, everything: tuple[Any, ...], rows: Tensor, most: int) -> LogTerms:
        return self.pair.terms(everything, min(max(1, self.rows // len(rows)), most), rows)

    def _fits(self, work: Callable[[], Result]) -> Result:
        """Do work that keeps to the row budget; where memory is used up, halve the budget once and do it again."""
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = in_one_line(error)
        # Outside the handler, so that the memory of the failed attempt is free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._halved or self.rows == 1:
            outputs = f" and {self.pair.outputs} outputs" if hasattr(self, "pair") else ""
            raise OutOfMemoryError(
                f"{self.who}: out of memory with {self.rows} rows a call{', half of before' if self._halved else ''}; "
                f"a datum has {self.args[0][0].numel()} numbers{outputs}. Free memory that others hold, move "
                f"model and guide to a device with more, or make the networks smaller. It said: {reason}"
            )
        self._halved, self.rows = True, self.rows // 2
        logger.warning("%s: out of memory; continues with %d rows a call, half of before", self.who, self.rows)
        return self._fits(work)

    def block(self, start: int, width: int) -> tuple[Any, ...]:
        """Return the arguments with ``width`` data from ``start`` on, in the visit's order, on the pair's device."""
        rows = slice(start, start + width) if self._order is None else self._order[start : start + width]
        return self.take(rows)


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
        self._chunk: list[Tensor] = []
        self.draws: TermDraws

    def __call__(self, start: int, left: int, times: int = 1) -> list[Tensor]:
        """Return ``times`` steps of the block at ``start``; ``left`` steps are to come, these among them."""
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
                terms = draw()
                if not self._chunk or self._chunk[0].shape != shape:
                    self._chunk = [term.new_empty(shape) for term in terms]
                samples = slice(index * self._samples, (index + 1) * self._samples)
                for whole, term in zip(self._chunk, terms, strict=True):
                    whole[samples, first : first + self._columns] = term
        return self._chunk

    def _plan(self, left: int) -> None:
        stream, rows = self._stream, self._stream.rows
        self._columns = columns = _evenly(self.width, rows)
        self._samples = samples = _evenly(self.step, max(1, rows // columns)) if stream.vectorizes else self.step
        self._calls = math.ceil(self.step / samples)
        self._chunk = []

        def terms(*block: Any) -> list[Tensor]:
            drawn = stream.pair.terms(block, samples)
            return [drawn.reconstruction, drawn.log_prior - drawn.log_guide]

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
    """Return how many to take at a time, more than half of ``most``, so that the last time lacks the fewest."""
    most = min(most, total)
    return min(range(most, most // 2, -1), key=lambda count: math.ceil(total / count) * count)
