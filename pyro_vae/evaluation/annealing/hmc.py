"""Hamiltonian Monte Carlo of many chains of many data at once, as functions of tensors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ENERGY_ERROR = 1000.0
"""Nats by which a trajectory may lose the energy before it counts as divergent; Stan's."""

TARGET = 0.65
"""The acceptance that a step size is adapted toward, as in Wu et al. and in Cremer et al."""

RATE = 0.2
"""How fast a step size is adapted: by 7 % where every proposal is accepted, by -12 % where none is."""


class Terms(NamedTuple):
    """Two log-densities at some points, and their gradients; the tempered log-density is base + temperature * ratio."""

    log_base: Tensor
    """``(num_chains, batch)``."""
    log_ratio: Tensor
    """``(num_chains, batch)``."""
    base_slope: Tensor
    """``(num_chains, batch, dim)``."""
    ratio_slope: Tensor
    """``(num_chains, batch, dim)``."""

    def log_density(self, temperature: float) -> Tensor:
        """Return the tempered log-density ``(num_chains, batch)``."""
        return torch.add(self.log_base, self.log_ratio, alpha=temperature)

    def slope(self, temperature: float) -> Tensor:
        """Return its gradient ``(num_chains, batch, dim)``."""
        return torch.add(self.base_slope, self.ratio_slope, alpha=temperature)


class Chains(NamedTuple):
    """The positions of chains, ``(num_chains, batch, dim)``, and the log-densities there."""

    u: Tensor
    terms: Terms


class Move(NamedTuple):
    """The result of one transition; all but the chains ``(num_chains, batch)``."""

    chains: Chains
    probability: Tensor
    """Of acceptance."""
    diverged: Tensor
    """Whether the trajectory lost more energy than :data:`ENERGY_ERROR`, or its energy is not finite."""


At = Callable[[Tensor], Sequence[Tensor]]
"""From u ``(num_chains, batch, dim)`` to the four of :class:`Terms`."""


def start(at: At, u: Tensor) -> Chains:
    """Return chains at u."""
    return Chains(u, Terms(*at(u)))


def leapfrog(
    at: At, chains: Chains, momentum: Tensor, step_size: Tensor, temperature: float, num_steps: int
) -> tuple[Chains, Tensor]:
    r"""Follow Hamilton's equations for H = -log density + \|momentum\|^2 / 2; one evaluation a step.

    A chain that runs off to infinity is put back to its start, so that no model sees values that are not finite; its
    momentum is NaN from there on, and so is its energy.

    Args:
        at: evaluates the two log-densities and their slopes.
        chains: where the trajectories start.
        momentum: ``(num_chains, batch, dim)``.
        step_size: ``(num_chains, batch)``.
        temperature: of the density.
        num_steps: how many leapfrog steps.

    Returns:
        The chains and the momentum at the end.

    References:
        R. Neal (2011), *MCMC using Hamiltonian dynamics*, section 2.3, arXiv 1206.1901.
    """
    step = step_size.unsqueeze(-1)
    u, terms = chains
    momentum = momentum + 0.5 * step * terms.slope(temperature)
    for index in range(num_steps):
        u = torch.addcmul(u, step, momentum)
        lost = ~u.isfinite().all(-1, keepdim=True)
        u = torch.where(lost, chains.u, u)
        momentum = momentum.masked_fill(lost, torch.nan)
        terms = Terms(*at(u))
        # Half a step of the momentum after this step of the position, and half a step before the next.
        share = 1.0 if index < num_steps - 1 else 0.5
        momentum = torch.addcmul(momentum, step, terms.slope(temperature), value=share)
    return Chains(u, terms), momentum


def transition(at: At, chains: Chains, step_size: Tensor, temperature: float, num_steps: int) -> Move:
    """Draw a momentum, follow the leapfrog trajectory, and accept or reject; each chain of each datum by itself.

    The tempered density is invariant, and the transition is reversible. Divergent trajectories are rejected.

    Args: as for :func:`leapfrog`.
    """
    momentum = torch.randn_like(chains.u)
    before = chains.terms.log_density(temperature) - 0.5 * momentum.square().sum(-1)
    proposal, momentum = leapfrog(at, chains, momentum, step_size, temperature, num_steps)
    gain = proposal.terms.log_density(temperature) - 0.5 * momentum.square().sum(-1) - before
    # Where the density is 0 (-inf), a trajectory cannot lose energy.
    good = (gain >= -ENERGY_ERROR) & gain.isfinite()
    # Log-densities may have more digits than u.
    probability = torch.where(good, gain, -torch.inf).clamp(max=0).exp().to(chains.u.dtype)
    accepted = torch.rand_like(probability) < probability
    wide = accepted.unsqueeze(-1)
    terms = (torch.where(wide if new.ndim == wide.ndim else accepted, new, old)
             for new, old in zip(proposal.terms, chains.terms, strict=True))  # fmt: skip
    moved = Chains(torch.where(wide, proposal.u, chains.u), Terms(*terms))
    return Move(moved, probability, ~good & before.isfinite())


def adapted(step_size: Tensor, probability: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return the step sizes a little larger where the probability of acceptance was above 0.65, else smaller.

    The logarithm moves in proportion to probability - 0.65. Factors of 1.02 and 0.98, by the sign alone, lead to the
    same step sizes, but take some hundred transitions for a factor of ten, where these take thirty.

    Args:
        step_size: ``(num_chains, batch)``.
        probability: of acceptance, of the same shape.
        bounds: that the result is held between.
    """
    return (step_size * (RATE * (probability - TARGET)).exp()).clamp(*bounds)
