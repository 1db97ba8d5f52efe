"""The mean of q(z | x) for each datum: read off the guide where it offers one, else sampled."""

from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.fit.batches import check_rows
from pyro_vae.programs import in_mode, local_params, modules_of
from pyro_vae.protocols import PosteriorGuide, Program

BLOCK = 1000
"""Data a guide call."""


@dataclass(frozen=True, eq=False)
class PosteriorMeans:
    """What :func:`posterior_means` returns, float64, on the CPU."""

    mean: Tensor
    """E_q[z | x], ``(N, latent_dim)``."""
    noise: Tensor
    """Monte Carlo variance of that estimate, ``(N, latent_dim)``; 0 where it is exact."""

    def variance_over_data(self) -> Tensor:
        """Return Var_x(E_q[z | x]) ``(latent_dim,)``, less what the noise adds to it (unbiased, cut at 0)."""
        return (self.mean.var(0) - self.noise.mean(0)).clamp(min=0)


def posterior_means(who: str, guide: Program, x: Tensor, site: str, num_samples: int) -> PosteriorMeans:
    """Return E_q[z | x] of each datum.

    Where the guide offers ``posterior(x)`` with a mean, that is used; else the mean is taken over samples.

    Args:
        who: the caller, for messages.
        guide: q(z | x).
        x: data ``(N, ...)``.
        site: the latent site.
        num_samples: samples for each datum, where they are needed.

    Raises:
        ValueError: the guide has no such site, ``num_samples`` is below 2 where samples are needed, or x is empty or
            not finite.
    """
    check_rows(f"{who}: x", x)
    means, noise = [], []
    modules = modules_of(guide)
    device = next((p.device for m in modules for p in m.parameters()), x.device)
    with torch.no_grad(), in_mode(modules, training=False), pyro.validation_enabled(False):
        for block in x.split(BLOCK):
            mean, variance = _of_block(who, guide, block.to(device), site, num_samples)
            means.append(mean.flatten(1).double().cpu())
            noise.append(variance.flatten(1).double().cpu())
    return PosteriorMeans(torch.cat(means), torch.cat(noise))


def _of_block(who: str, guide: Program, x: Tensor, site: str, num_samples: int) -> tuple[Tensor, Tensor]:
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
            f"{who}: num_samples must be at least 2 where the guide has no posterior(x) with a mean; got {num_samples}."
        )
    with local_params(guide):
        traces = [poutine.trace(guide).get_trace(x) for _ in range(num_samples)]
    if site not in traces[0].nodes:
        raise ValueError(
            f"{who}: the guide has no site {site!r}, only {', '.join(traces[0].stochastic_nodes)}; pass site='NAME'."
        )
    draws = torch.stack([trace.nodes[site]["value"] for trace in traces])
    return draws.mean(0), draws.var(0) / num_samples
