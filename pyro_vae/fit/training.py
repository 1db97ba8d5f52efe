"""A pair in training: one epoch of steps, one pass over the validation data, and what they leave behind."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.errors import NonFiniteError
from pyro_vae.fit.batches import Batches
from pyro_vae.fit.parameters import Parameters
from pyro_vae.fit.run import CHECKPOINT, Row
from pyro_vae.fit.gradients import LossAndGradients, TracedGradients
from pyro_vae.nonfinite import nonfinite_site
from pyro_vae.pair import Pair
from pyro_vae.programs import in_mode, local_params
from pyro_vae.protocols import Objective, ScheduledObjective


@dataclass
class Training:
    """What the steps share, and what they change: parameters, optimizer, history, best parameters so far."""

    pair: Pair
    parameters: Parameters
    objective: Objective
    step: LossAndGradients
    batches: Batches
    optimizer: Optimizer
    schedule: LRScheduler | None = None
    clip_grad_norm: float | None = None
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
        trainable = self.parameters.trainable
        beta = torch.tensor(kl_weight, device=self.device, dtype=trainable[0].dtype)
        total, count = 0.0, 0
        for number, rows in enumerate(self.batches.epoch(index)):
            noise = torch.get_rng_state()
            loss, *gradients = self.step(rows, beta)
            value = loss.item()
            if not math.isfinite(value):
                # The same noise again, to see where it went wrong.
                torch.set_rng_state(noise)
                x = self.batches.observe(rows)
                raise self._stopped(f"the loss became {value} at epoch {index + 1}, step {number + 1}", x)
            if self.clip_grad_norm is not None:
                # Out of place: gradients out of a graph may share their memory.
                factor = (self.clip_grad_norm / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
                gradients = [gradient * factor for gradient in gradients]
            for parameter, gradient in zip(trainable, gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            total -= value / self._stands_for(rows) * len(rows)
            count += len(rows)
            on_step()
        if count == 0:
            raise ValueError(f"fit: the data ran out: epoch {index + 1} has no batch.")
        self.optimizer.zero_grad()
        if self.parameters.not_finite():
            # A gradient can be NaN where the loss is not, and the epoch's last step is behind its last loss.
            raise self._stopped(f"a step made parameters NaN or infinite in epoch {index + 1}")
        return total / count

    def validate(self, index: int, blocks: Callable[[], Iterable[Tensor]] | None, seed: int) -> float:
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
        with self.own_noise(), in_mode(self.parameters.modules, training=False), torch.no_grad():
            torch.manual_seed(seed)
            for x in blocks():
                with local_params(model, guide):
                    loss = objective.loss(model, guide, x)
                if not math.isfinite(loss):
                    raise self._stopped(f"the validation loss became {loss} at epoch {index + 1}", x)
                total -= loss / self._stands_for(x) * len(x)
                count += len(x)
        return total / count

    def own_noise(self) -> AbstractContextManager[None]:
        """Return a context that leaves the random number generators as they were."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        return torch.random.fork_rng(devices=devices)  # type: ignore[no-any-return,unused-ignore]

    def advance_schedule(self, bound: float) -> None:
        """Step the learning-rate schedule after an epoch with this validation bound."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(bound if self.schedule.mode == "max" else -bound)
        elif self.schedule is not None:
            self.schedule.step()

    @property
    def compiled(self) -> str:
        """How the steps really run: "trace" or "off"."""
        return self.step.level if isinstance(self.step, TracedGradients) else "off"

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

    def _stands_for(self, rows: Tensor) -> int:
        """Return how many data a loss on these rows is a sum over: a plate of a fixed size scales up to all of it."""
        plate = self.pair.plate
        return plate.full_size if plate.full_size != self.pair.num_rows else len(rows)

    def _stopped(self, what: str, x: Tensor | None = None) -> NonFiniteError:
        site = "" if x is None else f" {nonfinite_site(self.pair.model, self.pair.guide, x)}"
        sick = self.parameters.not_finite()
        more = " ..." if len(sick) > 6 else ""
        state = f"Not finite any more: {', '.join(sick[:6])}{more}." if sick else "All parameters are still finite."
        saved = self.folder is not None and (self.folder / CHECKPOINT).is_file()
        kept = f"The last good checkpoint is in {self.folder}." if saved else "No checkpoint was kept."
        return NonFiniteError(
            f"fit: {what}.{site} {state} {kept} Usual fixes: a lower learning rate, clip_grad_norm=..., data on the "
            f"scale the likelihood expects."
        )
