"""The step of each level, and one that picks its level: compiled where enough steps are left to repay the compiler."""

import logging
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.fit.steps.gradients import Batch, BatchLoss
from pyro_vae.fit.steps.step import SeparateStep, Step
from pyro_vae.fit.steps.whole_step import WholeStep

logger = logging.getLogger("pyro_vae")

TIMED = 20
"""Traced steps, and compiled ones, whose median time is taken."""
COMPILE_SECONDS = 20.0
"""About what compiling takes where torch has kept nothing from an earlier run."""
SHARE_SAVED = 0.2
"""The least part of a traced step's time that compiling was measured to save: large batches, two cores."""


class AutoStep:
    """Time the first traced steps, pick "trace" or "inductor" for the rest, and log which and why.

    A compiled step that is no faster is given up again. Numbers at the two levels differ by rounding; a run that is
    resumed keeps its pick and its measured times.

    Args:
        loss: what each step descends.
        optimizer: moves the parameters.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        steps: how many the run takes; with None, unknown, all steps are traced.
        clock: tells the seconds.
    """

    def __init__(
        self, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None, steps: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._parts = (loss, optimizer, clip_grad_norm)
        self._steps, self._clock = steps, clock
        self._step = make_step("trace", *self._parts)
        self._taken = 0
        self._seconds: list[float] = []
        self._traced_seconds: float | None = None
        self.pick: str | None = None

    @property
    def level(self) -> str:
        """How the step runs now: "off", "trace" or "inductor"."""
        return self._step.level

    def __call__(self, batch: Batch, beta: Tensor) -> Tensor:
        """Take a step on a batch and return the loss."""
        if self.pick is not None and self._traced_seconds is None:
            return self._step(batch, beta)
        start = self._clock()
        loss = self._step(batch, beta)
        loss.isfinite().item()  # a device that works on its own has not finished before
        self._seconds.append(self._clock() - start)
        self._taken += 1
        # The first step of either kind records or compiles.
        if len(self._seconds) == TIMED + 1:
            self._settle_on(median(self._seconds[1:]))
        return loss

    def state(self) -> dict[str, Any]:
        """Return what was picked and measured, in JSON's terms."""
        return {"pick": self.pick, "seconds": self._seconds, "traced_seconds": self._traced_seconds}

    def resume(self, state: Mapping[str, Any], steps: int) -> None:
        """Go on as a run did that had taken so many steps and was in this state."""
        self._taken = steps
        if state["pick"] is not None:
            self._switch(state["pick"])
        self._seconds, self._traced_seconds = list(state["seconds"]), state["traced_seconds"]

    def replay(self, batch: Batch, beta: Tensor) -> list[Tensor] | None:
        """Return loss and gradients by the graph, or None where none runs."""
        return self._step.replay(batch, beta)

    def settle(self) -> None:
        """Bring the optimizer's own state up to date."""
        self._step.settle()

    def _settle_on(self, seconds: float) -> None:
        self._seconds = []
        if self._traced_seconds is not None:
            self._keep_if_faster(seconds, self._traced_seconds)
            return
        left = 0 if self._steps is None else max(self._steps - self._taken, 0)
        why = f"{'an unknown number of' if self._steps is None else left} steps of {1e3 * seconds:.2g} ms are left"
        if self._step.level == "trace" and left * seconds * SHARE_SAVED > COMPILE_SECONDS:
            self._traced_seconds = seconds
            self._switch("inductor")
        else:
            self.pick = self._step.level
        logger.info("fit: compile='auto' picks %r: %s", self.pick, why)

    def _keep_if_faster(self, seconds: float, traced: float) -> None:
        self._traced_seconds = None
        if self._step.level == "inductor" and seconds >= traced:
            logger.info(
                "fit: compile='auto' goes back to 'trace': a step takes %.2g ms compiled, %.2g ms traced",
                1e3 * seconds, 1e3 * traced,
            )  # fmt: skip
            self._switch("trace")

    def _switch(self, pick: str) -> None:
        self._step.settle()
        self.pick, self._step = pick, make_step(pick, *self._parts)


def make_step(
    level: str, loss: BatchLoss, optimizer: Optimizer, clip_grad_norm: float | None = None, steps: int | None = None
) -> Step:
    """Return what takes the steps of a run.

    Args:
        level: one of :data:`pyro_vae.graphs.levels.LEVELS`.
        loss: what each step descends.
        optimizer: moves the parameters.
        clip_grad_norm: bound on the norm of the gradient of all parameters together.
        steps: how many the whole run takes, where that is known.
    """
    if level == "auto":
        return AutoStep(loss, optimizer, clip_grad_norm, steps)
    if level == "inductor":
        return WholeStep(loss, optimizer, clip_grad_norm)
    return SeparateStep(loss, optimizer, clip_grad_norm, traced=level == "trace")
