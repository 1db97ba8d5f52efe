"""A guide's draws in the coordinates of the joint density, and its density at draws of another law."""

from dataclasses import replace
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.joint import Joint
from pyro_vae.pair import Pair
from pyro_vae.particles import LogTerms, samples
from pyro_vae.protocols import Program


class GuideDraws:
    """Draws from q(u | x), u as in :class:`pyro_vae.joint.Joint`, and scores other draws.

    Args:
        joint: of the model, made with the same data.
        model: p(x, z).
        guide: q(z | x).
        x: the data, or a tuple of all arguments.
        plate: the batch plate's name, where several would do.

    Raises:
        PairError: model and guide do not fit each other.
    """

    def __init__(self, joint: Joint, model: Program, guide: Program, x: Any, plate: str | None = None) -> None:
        self._joint, self._pair = joint, Pair(model, guide, x, plate)
        self._names = [part.name for part in joint.parts]

    def draw(self, x: Any, num_samples: int) -> tuple[Tensor, LogTerms]:
        """Return u ``(num_samples, batch, dim)``, and the terms of its log-weights."""
        runs = self._pair.run(x, num_samples)
        shapes = self._shapes(x)
        values = {}
        for name in self._names:
            found = [run.guide_trace.nodes[name]["value"] for run in runs]
            # A plate that only the guide has leaves a dim of size 1.
            values[name] = torch.cat([value.reshape(-1, *shapes[name]) for value in found])
        return self._joint.from_values(x, values), LogTerms.together([run.terms() for run in runs])

    def why_no_density(self, x: Any) -> str | None:
        """Return why q(z | x) cannot be evaluated at any z, or None where it can."""
        trace = self._pair.run(x, 1)[0].guide_trace
        own = [site["name"] for site in samples(trace) if site["name"] not in self._names]
        if own:
            return f"the guide has sites of its own ({', '.join(own)}), so that the density of z alone is unknown"
        try:
            self.log_density(x, self._joint.draw(x, 1))
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            return f"the guide cannot score a z that it did not draw ({type(error).__name__}: {reason})"
        if not self._pair.guide_repeats:
            return "the guide, run again with the values it drew, gives them another density"
        return None

    def log_density(self, x: Any, u: Tensor) -> Tensor:
        """Return log q(z | x) of the values z at u, ``(num_draws, batch)``."""
        values = self._joint.values(x, u)
        found: list[Tensor] = []
        for run in self._pair.run(x, len(u)):
            # Vectorized, one run holds all draws.
            shapes = {name: run.guide_trace.nodes[name]["value"].shape for name in self._names}
            first = sum(len(part) for part in found)
            last = first + run.shape[0]
            moved = _with_values(
                run.guide_trace, {name: values[name][first:last].reshape(shapes[name]) for name in self._names}
            )
            again = replace(run, guide_trace=self._pair.rerun_guide(x, moved))
            sites = list(samples(again.guide_trace))
            found.append(again.log_prob(sites, [1.0 for _ in sites]))
        return torch.cat(found)

    def _shapes(self, x: Any) -> dict[str, torch.Size]:
        """Return the shape of each latent site in the model, for one chain."""
        return {name: value.shape[1:] for name, value in self._joint.values(x, self._joint.draw(x, 1)).items()}


def _with_values(trace: Trace, values: dict[str, Tensor]) -> Trace:
    moved = trace.copy()
    for name, value in values.items():
        moved.nodes[name] = {**moved.nodes[name], "value": value}
    return moved
