"""The sizes by which an evaluation cuts its work into runs of the programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RunSizes:
    """How much a run holds. :func:`run_sizes` sets other sizes, :func:`current_sizes` returns those that hold."""

    rows: int = 1280
    """Rows a decoder call: enough for the matmuls' pace, few enough that outputs (4 MB of 784 pixels) stay in cache.

    As a graph and compiled, any number from 640 to 5000 was as fast within noise."""
    values: int = 8_000_000
    """Decoder outputs a call (32 MB), where a datum has many: fewer rows then."""
    head: int = 127
    """Data in a first run of the programs, from which their sites, masks and roundings are learned.

    It is no usual batch size: a plate of a fixed size, or a subsample, of as many data would look like a plate over
    these data."""
    calls: int = 64
    """Calls whose weights are handed on together, so that summing them up costs little beside drawing them."""
    blocks: int = 16
    """Blocks of data of like demand, where there are enough data: a block gets the samples of its most demanding
    datum."""


DEFAULT_SIZES = RunSizes()

_current: ContextVar[RunSizes] = ContextVar("run_sizes", default=DEFAULT_SIZES)


def current_sizes() -> RunSizes:
    """Return the sizes that hold where this is called."""
    return _current.get()


@contextmanager
def run_sizes(**sizes: int) -> Iterator[None]:
    """Set sizes, inside the block and in this thread alone; a generator must not yield inside the block.

    Args:
        sizes: fields of :class:`RunSizes`; those that are not named stay as they are.

    >>> with run_sizes(rows=20):
    ...     current_sizes().rows, current_sizes().head
    (20, 127)
    """
    token = _current.set(replace(_current.get(), **sizes))
    try:
        yield
    finally:
        _current.reset(token)
