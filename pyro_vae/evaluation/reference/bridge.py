"""Evidence and both KL divergences from draws of a posterior and of an approximation to it, by bridge sampling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.reference.chain_diagnostics import mean_and_variance

STEPS = 80
"""Bisections: of an interval of a million nats, what is left is below rounding."""

LEAST_OVERLAP = 20
"""Draws in common, below which no estimate is given: a relative error of 1 / sqrt(20) is still nearly normal."""


@dataclass(frozen=True)
class Bridge:
    """What :func:`bridge` returns, each ``(N,)`` in nats but the overlap."""

    log_evidence: Tensor
    log_evidence_errors: Tensor
    kl: Tensor
    """KL(q || p)."""
    kl_errors: Tensor
    forward_kl: Tensor
    """KL(p || q)."""
    forward_kl_errors: Tensor
    overlap: Tensor
    """How many draws the two laws have in common: of the smaller sample where they are equal, 0 where they are
    apart."""


def bridge(posterior: Tensor, guide: Tensor, independent: Tensor) -> Bridge:
    r"""Estimate log p(x), KL(q || p) and KL(p || q) from log-weights l = log p(x, z) - log q(z | x) at draws of both.

    With s the logistic function, and the shares :math:`\alpha` and :math:`1 - \alpha` of (independent) draws that come
    of the posterior and of q, the evidence :math:`e^c` solves the optimal bridge's equation

    .. math::
        (1 - \alpha)\, E_q[s(l - c + \kappa)] = \alpha\, E_p[1 - s(l - c + \kappa)], \quad
        \kappa = \log \frac{\alpha}{1 - \alpha},

    and then :math:`\mathrm{KL}(q \| p) = c - E_q[l]`, :math:`\mathrm{KL}(p \| q) = E_p[l] - c`. Standard errors are of
    first order: what a draw adds to the estimate, with all correlations between its parts, over effective draws.

    Args:
        posterior: l at draws of p(z | x), ``(num_chains, num_draws, N)``.
        guide: l at independent draws of q(z | x), ``(num_samples, N)``.
        independent: effective number of the posterior's draws, ``(N,)``.

    Returns:
        Estimates and errors; NaN where the laws have fewer than :data:`LEAST_OVERLAP` draws in common, or a log-weight
        is not finite.

    References:
        X.-L. Meng, W. H. Wong (1996), *Simulating ratios of normalizing constants via a simple identity: a theoretical
        exploration*, Statistica Sinica 6.
        C. Bennett (1976), *Efficient estimation of free energy differences from Monte Carlo data*, J. Comp. Phys. 22.
    """
    posterior, guide, independent = posterior.double(), guide.double(), independent.double()
    num_samples = len(guide)
    finite = posterior.isfinite().all(0).all(0) & guide.isfinite().all(0)
    share = independent / (independent + num_samples)
    kappa = share.log() - (-share).log1p()

    def sides(c: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - share) * torch.sigmoid(guide - c + kappa), share * torch.sigmoid(c - kappa - posterior)

    # The left side falls in c and the right side rises; at the ends one of them is over.
    everything = torch.cat([posterior.flatten(0, 1), guide])
    low, high = everything.amin(0) - kappa.abs() - 40, everything.amax(0) + kappa.abs() + 40
    for _ in range(STEPS):
        c = (low + high) / 2
        of_guide, of_posterior = sides(c)
        above = of_guide.mean(0) < of_posterior.flatten(0, 1).mean(0)
        low, high = torch.where(above, low, c), torch.where(above, c, high)
    of_guide, of_posterior = sides(c)
    slope = (of_guide * (1 - of_guide / (1 - share))).mean(0)
    slope = slope + (of_posterior * (1 - of_posterior / share)).flatten(0, 1).mean(0)
    overlap = slope / (share * (1 - share)) * independent.clamp(max=num_samples)
    usable = finite & (overlap >= LEAST_OVERLAP)

    def estimate(value: Tensor, at_guide: Tensor, at_posterior: Tensor) -> tuple[Tensor, Tensor]:
        variance = at_guide.var(0) / num_samples + mean_and_variance(at_posterior)[1]
        return torch.where(usable, value, math.nan), torch.where(usable, variance.sqrt(), math.nan)

    at_guide, at_posterior = of_guide / slope, -of_posterior / slope
    elbo, at_truth = guide.mean(0), posterior.flatten(0, 1).mean(0)
    return Bridge(
        *estimate(c, at_guide, at_posterior),
        *estimate(c - elbo, at_guide - guide, at_posterior),
        *estimate(at_truth - c, -at_guide, posterior - at_posterior),
        overlap,
    )
