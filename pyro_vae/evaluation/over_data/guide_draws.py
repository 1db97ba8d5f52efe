"""A guide's draws in the coordinates of the joint density, and its density at draws of another law."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.programs.coordinates import is_circular
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.layouts import FixedValues
from pyro_vae.programs.modules import modules_of
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import LogTerms, Particles, samples
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.wording import in_one_line


class GuideDraws:
    """Draws from q(u | x), u as in :class:`pyro_vae.programs.joint.Joint`, and scores other draws.

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
        self._joint, self._guide, self.pair = joint, guide, Pair(model, guide, x, plate)
        self.pair.check_circles()
        self._modules, self._names = modules_of(model, guide), list(joint.parts)
        with torch.no_grad(), no_side_effects(self._modules):
            run = self._runs(x, 1)[0]
        drawn = {name: self.pair.layout.apart(run, run.guide_trace.nodes[name]) for name in self._names}
        self._ndims = {name: value.ndim for name, value in drawn.items()}

    def draw(self, x: Any, num_samples: int) -> tuple[Tensor, LogTerms]:
        """Return u ``(num_samples, batch, dim)``, and the terms of its log-weights."""
        runs = self._runs(x, num_samples)
        u = torch.cat([self._joint.coordinates(run) for run in runs])
        return u, LogTerms.together([run.terms() for run in runs])

    def why_no_density(self, x: Any) -> str | None:
        """Return why q(z | x) cannot be evaluated at any z, or None where it can."""
        with torch.no_grad(), no_side_effects(self._modules):
            trace = self._runs(x, 1)[0].guide_trace
            extra = [site["name"] for site in samples(trace) if site["name"] not in self._names]
            if extra:
                return f"the guide has sites of its own ({', '.join(extra)}), so that the density of z alone is unknown"
            for name in self._names:
                if is_circular(trace.nodes[name]["fn"]) and name not in self._joint.angles:
                    return f"the guide's law of {name} is a density of angles, and the model's one on the line"
            try:
                self.log_density(x, self._joint.draw(x, 1))
            except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                return f"the guide cannot score a z that it did not draw ({in_one_line(error).partition('. ')[0]})"
            if self.pair.no_density:
                return f"the guide has no density: {self.pair.no_density}"
            if not self.pair.guide_repeats:
                return "the guide, run again with the values it drew, gives them another density"
        return None

    def log_density(self, x: Any, u: Tensor) -> Tensor:
        """Return log q(z | x) of the values z at u, ``(num_draws, batch)``."""
        layout, densities = self.pair.layout, []
        values = self._joint.values(x, u)
        for name, value in values.items():
            # A plate that the guide alone has makes a dim of size 1 there, one that the model alone has none.
            missing = self._ndims[name] - value.ndim
            inner = (1,) * missing + tuple(value.shape[1:]) if missing > 0 else tuple(value.shape[1 - missing :])
            values[name] = value.reshape(len(value), *inner)
        for chunk, count in layout.chunks(len(u)):
            fixed = FixedValues({name: value[chunk] for name, value in values.items()}, layout)
            run = self.pair.run_alone(self._guide, x, count, fixed)
            sites = list(samples(run.guide_trace))
            densities.append(run.log_prob(sites))
        return torch.cat(densities)

    def _runs(self, x: Any, num_samples: int) -> list[Particles]:
        with pyro.validation_enabled(False):
            return self.pair.run(x, num_samples)
