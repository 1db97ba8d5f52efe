"""Draw the terms of log-weights by Pyro, by a captured graph, or by that graph compiled."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from pyro_vae.graphs.capture import NotTraceable, capture
from pyro_vae.graphs.compiled_draws import expected_seconds, native_draws
from pyro_vae.graphs.draws import Draws, Tensors
from pyro_vae.graphs.inductor import NotCompilable
from pyro_vae.runtime.memory import is_out_of_memory

logger = logging.getLogger("pyro_vae")

LEVELS = ("off", "trace", "inductor", "auto")

CALLS_WORTH_A_GRAPH = 100
"""Capturing a graph costs a tenth of a second or more, and saves a few milliseconds a call."""

SAVED = 0.2
"""Share of a graph's time that its compilation saves at least, as with a small decoder; flows save more."""


def check_level(who: str, compile: str) -> None:
    """Refuse what is no level.

    Raises:
        ValueError: ``compile`` is not in ``LEVELS``.
    """
    if compile not in LEVELS:
        raise ValueError(f"{who}: compile must be one of {', '.join(LEVELS)}; got {compile!r}.")


class TermDraws:
    """Draws terms of blocks of data of one shape, at the level asked for or the next slower one that works.

    Args:
        who: the caller, for messages.
        terms: from a block's tensors to the terms of one draw.
        blocks: two blocks with different values, to record with and to compare on.
        modules: whose buffers the terms may change.
        level: one of ``LEVELS``.
        calls: how many draws are to come.
        vectorizes: whether a graph would hold more than a loop over samples.
        varying: how many of a block's last tensors change from draw to draw: :meth:`on` takes the others, and what it
            returns takes these.
    """

    def __init__(
        self, who: str, terms: Callable[..., Tensors], blocks: Sequence[tuple[Any, ...]], modules: Sequence[nn.Module],
        level: str, calls: int, vectorizes: bool, varying: int = 0,
    ) -> None:  # fmt: skip
        self._who, self._terms, self._modules, self._varying = who, terms, modules, varying
        self.level = "off"
        """The level at which terms are drawn now: "off", "trace" or "inductor"."""
        self._blocks = [list(block) for block in blocks]
        self._graph: Draws | None = None
        self._took: list[float] = []
        if level == "inductor" or (level != "off" and calls >= CALLS_WORTH_A_GRAPH and vectorizes):
            self._capture(vectorizes)
        self._undecided = level == "auto" and self._graph is not None
        if level == "inductor" and self._graph is not None:
            self._compile()

    def on(self, *block: Any) -> Callable[..., Tensors]:
        """Return a function that draws anew at each call; what the draws share is computed here."""
        return partial(self._terms, *block) if self._graph is None else self._graph.on(*block)

    def spent(self, seconds: float, times: int) -> None:
        """Note the seconds that some draws took, with ``times`` as many draws left; compile if that will pay."""
        if not self._undecided or self._graph is None:
            return
        self._took.append(seconds)
        if len(self._took) == 1:
            # The first has warmed up caches and allocators.
            return
        self._undecided = False
        left = min(self._took) * times
        if left * SAVED > expected_seconds(self._graph):
            logger.info("%s: about %.0f s of work are left, which is worth a compile", self._who, left)
            self._compile()

    def _capture(self, vectorizes: bool) -> None:
        try:
            if not vectorizes:
                raise NotTraceable("samples of this pair are run one by one")
            if not all(isinstance(value, Tensor) for value in self._blocks[0]):
                raise NotTraceable("an argument is no tensor")
            self._graph = capture(self._terms, self._blocks[0], self._blocks[1], self._modules, self._varying)
            self.level = "trace"
        except NotTraceable as reason:
            if reason.__cause__ is not None and is_out_of_memory(reason.__cause__):
                raise reason.__cause__ from None
            logger.warning("%s: runs without a graph, which is slower: %s", self._who, reason)

    def _compile(self) -> None:
        assert self._graph is not None
        try:
            self._graph = native_draws(self._graph, self._blocks[1], self._modules)
            self.level = "inductor"
        except NotCompilable as reason:
            logger.warning("%s: the graph is not compiled, which is slower: %s", self._who, reason)
