"""A pair in training: one epoch of steps, one pass over the validation data, and the state that they change."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.errors import NonFiniteError
from pyro_vae.fit.batches import Batches
from pyro_vae.fit.parameters import Parameters
from pyro_vae.fit.run import CHECKPOINT, Row
from pyro_vae.fit.steps.gradients import Batch
from pyro_vae.fit.steps.step import Step
from pyro_vae.fit.steps.watch import Watch
from pyro_vae.fit.summed import Summed
from pyro_vae.programs.modules import as_args, in_mode, local_params
from pyro_vae.programs.nonfinite import nonfinite_site
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Objective, ScheduledObjective
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.random_state import seeded

LOSSES_TOGETHER = 50
"""Steps whose losses are read at once from a device other than the CPU."""


@dataclass
class Training:
    """A pair with what its training changes: parameters, optimizer, history, best parameters so far."""

    pair: Pair | Summed
    parameters: Parameters
    objective: Objective
    step: Step
    batches: Batches
    optimizer: Optimizer
    schedule: LRScheduler | None = None
    watch: Watch | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    history: list[Row] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def epoch(self, index: int, kl_weight: float, on_step: Callable[[], object] = lambda: None) -> float:
        """Take the steps of one epoch.

        Args:
            index: of the epoch, from 0.
            kl_weight: weight of the KL term.
            on_step: called after each step.

        Returns:
            The mean of the steps' bounds, in nats per datum.

        Raises:
            NonFiniteError: a loss or, after the last step, a parameter is NaN or infinite.
        """
        dtype = self.parameters.trainable[0].dtype
        beta = torch.tensor(kl_weight, device=self.device, dtype=dtype)
        # The CPU has the loss when the step returns; reading each one from another device would stall it.
        together = 1 if self.device.type == "cpu" else LOSSES_TOGETHER
        total, count = 0.0, 0
        pending: list[tuple[Tensor, float]] = []

        try:
            for number, batch in enumerate(self.batches.epoch(index)):
                noise = torch.get_rng_state()
                rows = len(as_args(batch)[0])
                pending.append((self.step(batch, beta), rows / self._stands_for(rows)))
                count += rows
                if len(pending) == together:
                    total -= self._read(pending, (index, number), batch, noise)
                if self.watch is not None:
                    # A schedule has just set the weight of this epoch: a graph that froze it is found at once.
                    now = number == 0 and isinstance(self.objective, ScheduledObjective)
                    self.watch.after(self.step, batch, beta, now)
                on_step()
            if pending:
                total -= self._read(pending, (index, number), batch, noise)
        finally:
            self.step.settle()
        if count == 0:
            raise ValueError(f"fit: the data ran out: epoch {index + 1} has no batch.")
        if self.parameters.not_finite():
            # A gradient can be NaN under a finite loss, and no loss comes after the epoch's last step.
            raise self._stopped(f"a step made parameters NaN or infinite in epoch {index + 1}")
        return total / count

    def _read(self, pending: list[tuple[Tensor, float]], last: tuple[int, int], batch: Batch, noise: Tensor) -> float:
        """Empty the list of losses and return their sum, each times its share of the data that it sums over.

        ``batch`` and ``noise`` are those of the last step, whose epoch and number ``last`` has, from 0.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        epoch, number = last
        total, steps = 0.0, range(number + 2 - len(pending), number + 2)
        values = torch.stack([loss for loss, _ in pending]).tolist()
        for step, value, (_, share) in zip(steps, values, pending, strict=True):
            if not math.isfinite(value):
                # With the same noise again, the site where it went wrong can be found.
                torch.set_rng_state(noise)
                what = f"the loss became {value} at epoch {epoch + 1}, step {step}"
                raise self._stopped(what, self.batches.observe(batch))
            total += value * share
        pending.clear()
        return total

    def validate(self, index: int, blocks: Callable[[], Iterable[Any]] | None, seed: int) -> float:
        """Return the objective's bound on validation data in nats per datum, under the same noise every epoch.

        NaN where there are no validation data.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        if blocks is None:
            return math.nan
        total, count = 0.0, 0
        model, guide = self.pair.model, self.pair.guide
        objective = self.objective.final() if isinstance(self.objective, ScheduledObjective) else self.objective
        with seeded(seed), in_mode(self.parameters.modules, training=False), torch.no_grad():
            for x in blocks():
                with local_params(model, guide), self.pair.guarded():
                    loss = objective.loss(model, guide, *as_args(x))
                if not math.isfinite(loss):
                    raise self._stopped(f"the validation loss became {loss} at epoch {index + 1}", x)
                rows = len(as_args(x)[0])
                total -= loss / self._stands_for(rows) * rows
                count += rows
        return total / count

    def advance_schedule(self, bound: float) -> None:
        """Step the learning-rate schedule after an epoch with this validation bound."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(bound if self.schedule.mode == "max" else -bound)
        elif self.schedule is not None:
            self.schedule.step()

    @property
    def best_epoch(self) -> int | None:
        """The first epoch (from 1) with the best validation bound, among those with the full KL weight."""
        full = self.objective.final_kl_weight() if isinstance(self.objective, ScheduledObjective) else 1.0
        rows = [row for row in self.history if row["kl_weight"] == full]
        return int(max(rows, key=lambda row: row["valid_bound_nats"])["epoch"]) if rows else None

    def has_stalled(self, patience: int | None) -> bool:
        """Whether the last ``patience`` epochs brought no better validation bound."""
        best = self.best_epoch
        return patience is not None and best is not None and len(self.history) - best >= patience

    def _stands_for(self, rows: int) -> int:
        """Return how many data the loss on a batch of ``rows`` sums over: a plate of a fixed size scales it up."""
        plate = self.pair.plate
        return plate.full_size if plate.full_size != self.pair.num_rows else rows

    def _stopped(self, what: str, x: Any = None) -> NonFiniteError:
        site = "" if x is None else f" {nonfinite_site(self.pair.model, self.pair.guide, x)}"
        sick = self.parameters.not_finite()
        more = " ..." if len(sick) > 6 else ""
        state = f"Not finite any more: {', '.join(sick[:6])}{more}." if sick else "All parameters are still finite."
        saved = self.folder is not None and (self.folder / CHECKPOINT).is_file()
        checkpoint = f"The last good checkpoint is in {self.folder}." if saved else "No checkpoint was kept."
        return NonFiniteError(
            f"fit: {what}.{site} {state} {checkpoint} Usual fixes: a lower learning rate, "
            f"{argument('clip_grad_norm', '...')}, data on the scale the likelihood expects."
        )
