"""The path of densities from the prior, or from a guide, to the posterior, in unconstrained coordinates."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.graph import in_one_line, no_side_effects
from pyro_vae.joint import FixedValues, Joint
from pyro_vae.memory import is_out_of_memory
from pyro_vae.pair import Pair
from pyro_vae.particles import PARTICLES, Particles, samples
from pyro_vae.programs import as_args, local_params, modules_of
from pyro_vae.protocols import Program

REMEDY = "Start from the prior: guide=None."


class Path:
    r"""Log-densities from q_0(u) to p(x, u), where q_0 is the prior p(u) or a guide q(u | x).

    .. math:: \log f_b(u) = \log q_0(u) + b (\log p(x, u) - \log q_0(u)), \qquad 0 \le b \le 1

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x) to start from; None for the prior.
        x: some data, or a tuple of all arguments.
        plate: the batch plate's name, needed only where several would do.

    Raises:
        PairError: no batch plate, or model and guide do not fit each other.
        ValueError: a latent site is discrete; the batch plate subsamples; or the guide has no density for a z that it
            did not draw.
    """

    def __init__(self, who: str, model: Program, guide: Program | None, x: Any, plate: str | None = None) -> None:
        self.joint = Joint(who, model, x, plate)
        self.start = "prior" if guide is None else "guide"
        """What q_0 is: "prior" or "guide"."""
        self._guide = None if guide is None else _GuideDensity(who, model, guide, self.joint, x, plate)

    @property
    def vectorizes(self) -> bool:
        """Whether many chains are run at once, and not one by one."""
        return self.joint.vectorizes and (self._guide is None or self._guide.vectorizes)

    def draw(self, x: Any, num_chains: int) -> Tensor:
        """Draw u from q_0, ``(num_chains, batch, dim)``."""
        with torch.no_grad():
            return (self.joint if self._guide is None else self._guide).draw(x, num_chains)

    def at(self, x: Any, u: Tensor) -> list[Tensor]:
        """Return log q_0(u) and log p(x, u) - log q_0(u) ``(num_chains, batch)``, and their slopes, of u's shape."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            terms = self.joint.terms(x, u)
            if self._guide is None:
                base, ratio = terms.log_prior, terms.log_likelihood
                slopes = [_slope(base, u), _slope(ratio, u)]
            else:
                base = self._guide.log_prob(x, self.joint.values(x, u)) + terms.log_volume
                ratio = terms.log_joint - base
                slope = _slope(base, u)
                slopes = [slope, _slope(terms.log_joint, u) - slope]
        return [base.detach(), ratio.detach(), *slopes]


class _GuideDensity:
    """A guide that is drawn from, and scored at values that it did not draw."""

    def __init__(self, who: str, model: Program, guide: Program, joint: Joint, x: Any, plate: str | None) -> None:
        self._joint, self._guide = joint, guide
        self._pair = Pair(model, guide, x, plate)
        self.vectorizes = self._pair.vectorizes
        with torch.no_grad(), no_side_effects(modules_of(model, guide), as_args(x)[0].device):
            drawn, prior = self._values(x, 1), joint.values(x, joint.draw(x, 1))
            extra = [name for name in drawn if name not in prior]
            if extra:
                raise ValueError(
                    f"{who}: the guide's site {extra[0]!r} is not the model's, so that q(z | x) alone has no density "
                    f"for chains to start from. {REMEDY}"
                )
            self._dims = {name: value.ndim for name, value in drawn.items()}
            self._joint_dims = {name: value.ndim for name, value in prior.items()}
            try:
                self.log_prob(x, prior)
            except (ValueError, RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(
                    f"{who}: the guide has no density for a z that it did not draw ({in_one_line(error)}). {REMEDY}"
                ) from error
        if not self._pair.guide_repeats:
            raise ValueError(f"{who}: the guide's density of one z changes from run to run. {REMEDY}")

    def draw(self, x: Any, num_chains: int) -> Tensor:
        """Draw u ``(num_chains, batch, dim)``."""
        values = self._values(x, num_chains)
        return self._joint.from_values(x, {name: _with_dims(values[name], n) for name, n in self._joint_dims.items()})

    def log_prob(self, x: Any, values: Mapping[str, Tensor]) -> Tensor:
        """Return log q(z | x) ``(num_chains, batch)`` of what :meth:`Joint.values` returns."""
        values = {name: _with_dims(values[name], n) for name, n in self._dims.items()}
        found = []
        for run in self._runs(x, values):
            sites = list(samples(run.guide_trace))
            found.append(run.log_prob(sites, [1.0 for _ in sites]))
        return torch.cat(found)

    def _values(self, x: Any, num_chains: int) -> dict[str, Tensor]:
        """Draw the guide's sites, each ``(num_chains, *its own shape)``."""
        with pyro.validation_enabled(False):
            runs = self._pair.run(x, num_chains)
        drawn = [{site["name"]: site["value"] for site in samples(run.guide_trace)} for run in runs]
        if self.vectorizes:
            return drawn[0]
        return {name: torch.stack([values[name] for values in drawn]) for name in drawn[0]}

    def _runs(self, x: Any, values: Mapping[str, Tensor]) -> Iterator[Particles]:
        """Run the guide at the values: of all chains together, or one by one."""
        num_chains, dim = len(next(iter(values.values()))), self._pair.particle_dim
        for rows in [slice(None)] if self.vectorizes else range(num_chains):
            guide = pyro.plate(PARTICLES, num_chains, dim=dim)(self._guide) if self.vectorizes else self._guide
            fixed = FixedValues({name: value[rows] for name, value in values.items()})
            with pyro.validation_enabled(False), local_params(self._guide), fixed:
                trace = poutine.trace(guide).get_trace(*as_args(x))
            yield Particles(trace, trace, trace, self._pair.plate, dim)


def _slope(value: Tensor, u: Tensor) -> Tensor:
    """Return the gradient of each chain's and datum's value by its own u; the graph is kept."""
    if not value.requires_grad:
        return torch.zeros_like(u)
    (slope,) = torch.autograd.grad(value.sum(), u, retain_graph=True, allow_unused=True)
    return torch.zeros_like(u) if slope is None else slope


def _with_dims(value: Tensor, ndim: int) -> Tensor:
    """Return a value ``(num_chains, ...)`` with as many dims as another program has plates for it, of size 1."""
    missing = ndim - value.ndim
    rest = (1,) * missing + tuple(value.shape[1:]) if missing > 0 else tuple(value.shape[1 - missing :])
    return value.reshape(len(value), *rest)
