"""A guide's draws in the coordinates of the joint density, and its density at draws of another law."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.programs.coordinates import is_circular
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.modules import modules_of
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import LogTerms, Particles, samples
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.programs.values import FixedValues
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
        self._modules = modules_of(model, guide)
        self._names = [part.name for part in joint.parts]
        with torch.no_grad(), no_side_effects(self._modules):
            drawn, prior = self._sites(self._runs(x, 1)), joint.values(x, joint.draw(x, 1))
        # A plate that only one of the two has leaves a dim of size 1 there.
        self._guide_ndims = {name: value.ndim for name, value in drawn.items()}
        self._model_ndims = {name: value.ndim for name, value in prior.items()}

    @property
    def vectorizes(self) -> bool:
        """Whether many draws are made and scored at once, and not one by one."""
        return self.pair.vectorizes

    def draw(self, x: Any, num_samples: int) -> tuple[Tensor, LogTerms]:
        """Return u ``(num_samples, batch, dim)``, and the terms of its log-weights."""
        runs = self._runs(x, num_samples)
        values = self._with_ndims(self._sites(runs), self._model_ndims)
        return self._joint.from_values(x, values), LogTerms.together([run.terms() for run in runs])

    def why_no_density(self, x: Any) -> str | None:
        """Return why q(z | x) cannot be evaluated at any z, or None where it can."""
        with torch.no_grad(), no_side_effects(self._modules):
            trace = self._runs(x, 1)[0].guide_trace
            own = [site["name"] for site in samples(trace) if site["name"] not in self._names]
            if own:
                return f"the guide has sites of its own ({', '.join(own)}), so that the density of z alone is unknown"
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
        values = self._with_ndims(self._joint.values(x, u), self._guide_ndims)
        found = []
        for run in self._scored(x, values, len(u)):
            sites = list(samples(run.guide_trace))
            found.append(run.log_prob(sites, [1.0 for _ in sites]))
        return torch.cat(found)

    def _runs(self, x: Any, num_samples: int) -> list[Particles]:
        with pyro.validation_enabled(False):
            return self.pair.run(x, num_samples)

    def _sites(self, runs: list[Particles]) -> dict[str, Tensor]:
        """Return the latent sites' values, each ``(num_samples, *its own shape)``."""
        apart = self.pair.layout.apart
        drawn = [{name: apart(run, run.guide_trace.nodes[name]) for name in self._names} for run in runs]
        if self.vectorizes:
            return drawn[0]
        return {name: torch.cat([values[name] for values in drawn]) for name in self._names}

    def _scored(self, x: Any, values: Mapping[str, Tensor], num_draws: int) -> Iterator[Particles]:
        """Run the guide at the values: of all draws together, or one by one."""
        layout = self.pair.layout
        for chunk, count in layout.chunks(num_draws):
            fixed = FixedValues({name: value[chunk] for name, value in values.items()}, layout)
            yield self.pair.run_alone(self._guide, x, count, fixed)

    @staticmethod
    def _with_ndims(values: Mapping[str, Tensor], ndims: Mapping[str, int]) -> dict[str, Tensor]:
        """Return values ``(num_draws, ...)`` with as many dims as a program has for them, those of size 1 in front."""
        found = {}
        for name, value in values.items():
            missing = ndims[name] - value.ndim
            rest = (1,) * missing + tuple(value.shape[1:]) if missing > 0 else tuple(value.shape[1 - missing :])
            found[name] = value.reshape(len(value), *rest)
        return found
