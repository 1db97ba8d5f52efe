"""Find out whether the pair has changed since its graph was recorded: a Python program may, and its graph runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import StaleGraphError
from pyro_vae.fit.steps.gradients import Batch, BatchLoss
from pyro_vae.fit.steps.step import Step
from pyro_vae.programs.modules import as_args, local_params
from pyro_vae.programs.undo import VERIFICATION_SEED, no_side_effects
from pyro_vae.runtime.roundings import agree

EVERY = 1000
"""Steps between two looks: one was measured at three to five traced steps, less than a hundredth of those between."""

REMEDY = (
    "Steps since the last look, at most {every}, followed the graph, not the pair. Keep what changes in a tensor that "
    "is written in place, change it between two calls of fit, or pass compile='off'."
)


class Watch:
    """Compare the pair with the graph that runs in its place, now and then and where it is asked to.

    Args:
        loss: the pair, its objective and its data.
        batch: any batch.
        every: steps between two looks.
    """

    def __init__(self, loss: BatchLoss, batch: Batch, every: int = EVERY) -> None:
        self._loss, self._batch, self._every = loss, batch, every
        self._remedy = REMEDY.format(every=every)
        self._sites = self._structure()
        self._steps_since = 0
        self._last: tuple[Batch, Tensor] = (batch, torch.ones(()))

    def after(self, step: Step, batch: Batch, beta: Tensor, now: bool = False) -> None:
        """Count a step that was taken, and look where it is time or ``now`` is set.

        Raises:
            StaleGraphError: as for :meth:`look`.
        """
        self._steps_since += 1
        self._last = (batch, beta)
        if now or self._steps_since >= self._every:
            self.look(step)

    def look(self, step: Step) -> None:
        """Compare sites, then loss and gradients under the same noise, unless the last step was looked at.

        Nothing is changed by it.

        Raises:
            StaleGraphError: they differ; says in what.
        """
        if self._steps_since == 0:
            return
        self._steps_since = 0
        batch, beta = self._last
        with self._aside():
            by_graph = step.replay(batch, beta)
        if by_graph is None:
            return
        sites = self._structure()
        changed = sorted({name for name, _ in sites.items() ^ self._sites.items()})
        if changed:
            was = [f"{name} was {self._sites.get(name, 'absent')}, is {sites.get(name, 'absent')}" for name in changed]
            raise StaleGraphError(f"fit: the pair is not the one whose graph is run: {'; '.join(was)}. {self._remedy}")
        with self._aside():
            by_pyro = self._loss.eager()(batch, beta)
        same = [agree(ours, now, roundings=1000) for ours, now in zip(by_graph, by_pyro, strict=True)]
        # A loss near zero, or a gradient that cancels, may round worse than that; not both.
        if not same[0] and not all(same[1:]):
            raise StaleGraphError(
                f"fit: the loss of the pair is {by_pyro[0].item():.6g}, that of the graph in its place "
                f"{by_graph[0].item():.6g}, with the same noise: a Python number of the pair has changed. "
                f"{self._remedy}"
            )

    def _structure(self) -> dict[str, str]:
        """Return kind and shape of each site of the guide and the model."""
        model, guide = self._loss.model, self._loss.guide
        with self._aside(), torch.no_grad(), local_params(model, guide):
            x = as_args(self._loss.observe(self._batch))
            of_guide = poutine.trace(guide).get_trace(*x)
            of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(*x)
        laws = {}
        for where, trace in (("guide", of_guide), ("model", of_model)):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and isinstance(site["value"], Tensor):
                    shape = tuple(site["value"].shape)
                    laws[f"{where} site {name!r}"] = f"{type(site['fn']).__name__} of shape {shape}"
        return laws

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Run what is compared with the same noise, and put everything back."""
        with no_side_effects(self._loss.modules):
            torch.manual_seed(VERIFICATION_SEED)
            yield
