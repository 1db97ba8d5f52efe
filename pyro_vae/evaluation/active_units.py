"""How many latent dimensions carry information about x."""

from dataclasses import dataclass, field

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.programs import in_mode, local_params, modules_of
from pyro_vae.protocols import PosteriorGuide, Program
from pyro_vae.sites import LATENT

BLOCK = 1000
"""Data a guide call."""


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """What :func:`active_units` returns."""

    variance: Tensor = field(repr=False)
    """Var_x(E_q[z | x]) of each latent dimension, ``(latent_dim,)``, float64."""
    threshold: float = 0.01

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, ``(latent_dim,)``."""
        return self.variance > self.threshold

    @property
    def count(self) -> int:
        """How many are."""
        return int(self.active.sum())

    @property
    def most_active(self) -> list[int]:
        """All dimensions, the one with the largest variance first."""
        return self.variance.argsort(descending=True).tolist()

    def __str__(self) -> str:
        return f"{self.count} of {len(self.variance)} latent units active (variance of the mean > {self.threshold:g})"


def active_units(
    guide: Program, x: Tensor, threshold: float = 0.01, *, site: str = LATENT, num_samples: int = 50
) -> ActiveUnits:
    r"""Latent units whose posterior mean varies over the data: Var_x(E_q[z | x]) > threshold.

    Where the guide offers ``posterior(x)`` with a mean, that is used; else the mean is taken over samples, and
    the variance which this adds is taken off again (unbiased).

    Args:
        guide: q(z | x).
        x: data ``(N, ...)``.
        threshold: Burda et al. use 0.01.
        site: the latent site.
        num_samples: samples for each datum, where they are needed.

    Raises:
        ValueError: the guide has no such site, or ``num_samples`` is below 2 where samples are needed.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, section 5,
        arXiv 1509.00519.
    """
    means, noise = [], []
    modules = modules_of(guide)
    device = next((p.device for m in modules for p in m.parameters()), x.device)
    with torch.no_grad(), in_mode(modules, training=False), pyro.validation_enabled(False):
        for block in x.split(BLOCK):
            mean, variance = _posterior_mean(guide, block.to(device), site, num_samples)
            means.append(mean.flatten(1).double().cpu())
            noise.append(variance.flatten(1).double().cpu())
    correction = torch.cat(noise).mean(0)
    return ActiveUnits((torch.cat(means).var(0) - correction).clamp(min=0), threshold)


def _posterior_mean(guide: Program, x: Tensor, site: str, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return E_q[z | x], and the Monte Carlo variance of that estimate (0 where it is exact)."""
    if isinstance(guide, PosteriorGuide):
        try:
            mean = guide.posterior(x).mean
        except NotImplementedError:
            pass
        else:
            return mean, torch.zeros_like(mean)
    if num_samples < 2:
        raise ValueError(
            f"active_units: num_samples must be at least 2 where the guide has no posterior(x) with a mean; "
            f"got {num_samples}."
        )
    with local_params(guide):
        traces = [poutine.trace(guide).get_trace(x) for _ in range(num_samples)]
    if site not in traces[0].nodes:
        raise ValueError(
            f"active_units: the guide has no site {site!r}, only {', '.join(traces[0].stochastic_nodes)}; "
            f"pass site='NAME'."
        )
    draws = torch.stack([trace.nodes[site]["value"] for trace in traces])
    return draws.mean(0), draws.var(0) / num_samples
