"""Sides timed in turn, and compared round by round."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

Side = Callable[[int], object]
"""Does a fixed amount of work; called with the number of the round."""


@dataclass(frozen=True)
class Spread:
    """The median of what the rounds gave, with the smallest and the largest."""

    median: float
    low: float
    high: float
    values: tuple[float, ...] = field(repr=False)
    """All of them, in the order of the rounds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarize one value a round."""
        return cls(median(values), min(values), max(values), tuple(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}}  ({self.low:{spec}} to {self.high:{spec}})"


def interleaved(
    sides: Mapping[str, Side], rounds: int, warmup: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time every side once a round, in turn: A B C A B C ...

    What slows the machine for a while then slows all sides, and cancels in the ratio of one round.

    Args:
        sides: the work, by name.
        rounds: how many rounds count.
        warmup: rounds before them that do not: captures, caches, thread pools, frequencies.
        clock: tells the seconds; ``time.process_time`` counts those of this process alone.

    Returns:
        Seconds of each side, one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(warmup + rounds):
        for name, side in sides.items():
            with _no_garbage_collection():
                start = clock()
                side(index)
                took = clock() - start
            if index >= warmup:
                seconds[name].append(took)
    return seconds


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> Spread:
    """Return how many times longer one side takes than the other of the same round."""
    return Spread.of([mine / other for mine, other in zip(seconds, reference, strict=True)])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect before, not during: a collection falls on whichever side happens to be running."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
