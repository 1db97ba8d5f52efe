"""Chains annealed along a path of densities: a pilot run finds the step sizes, and a second run gives the weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.hmc import At, adapted, start, transition
from pyro_vae.evaluation.annealing.temperatures import SCHEDULES, temperatures
from pyro_vae.runtime.checks import check_count, check_number, in_short

LEAST = 0.4
"""The least share of its step size that a transition takes.

Trajectories of one length return to their start in some directions, at each temperature at which these directions have
the same width: the variance of log-weights is then larger by a third or more for a VAE of 50 dims, and by a factor of
1.5 to 5 for Gaussians of ten.
"""


@dataclass(frozen=True)
class Annealed:
    """The result of some chains of some data; each ``(num_chains, batch)``, float64, if not said otherwise."""

    log_weight: Tensor
    """Sum of the log-weight's increments, in nats."""
    acceptance: Tensor
    """Mean probability of acceptance over the transitions; NaN where there were none."""
    diverged: Tensor
    """Share of the transitions whose trajectory diverged; 0 where there were none."""
    u: Tensor
    """The end of each chain, ``(num_chains, batch, dim)``, of u's dtype."""


@dataclass(frozen=True)
class Annealing:
    """The settings of annealed chains, as :func:`pyro_vae.ais` explains them."""

    num_temperatures: int
    num_chains: int
    num_leapfrog: int
    schedule: str
    step_size: float
    step_size_bounds: tuple[float, float]
    burn_in: int

    def check(self, who: str) -> None:
        """Refuse settings that make no sense.

        Raises:
            ValueError: names the setting and what it must be.
        """
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{who}: schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}.")
        check_count(who, "num_temperatures", self.num_temperatures, why=", which is plain importance sampling")
        for name, least in (("num_chains", 1), ("num_leapfrog", 1), ("burn_in", 0)):
            check_count(who, name, getattr(self, name), least)
        check_number(who, "step_size", self.step_size)
        if not isinstance(self.step_size_bounds, tuple | list) or len(self.step_size_bounds) != 2:
            raise ValueError(f"{who}: step_size_bounds must be two numbers; got {in_short(self.step_size_bounds)}.")
        for bound in self.step_size_bounds:
            check_number(who, "each of step_size_bounds", bound)
        low, high = self.step_size_bounds
        if not 0 < low <= self.step_size <= high < math.inf:
            raise ValueError(
                f"{who}: step_size must lie in step_size_bounds, which must be positive; got {self.step_size} and "
                f"{self.step_size_bounds}."
            )

    @property
    def num_transitions(self) -> int:
        """Transitions of a chain, from the first temperature to the last."""
        return self.num_temperatures - 1

    @property
    def num_pilot_transitions(self) -> int:
        """Transitions of a pilot chain; none where the chains that count make none."""
        return self.burn_in if self.num_transitions else 0

    def step_sizes(self, at: At, u: Tensor, tick: Callable[[], object]) -> Tensor:
        """Anneal pilot chains in ``burn_in`` transitions, and return the adapted step sizes after each.

        Args:
            at: as for :func:`pyro_vae.evaluation.annealing.hmc.leapfrog`.
            u: draws from the first density ``(num_chains, batch, dim)``, used for nothing else.
            tick: called after each transition.

        Returns:
            Tensor ``(burn_in, num_chains, batch)``; ``(1, num_chains, batch)`` without a burn-in.
        """
        size = torch.full(u.shape[:2], self.step_size, dtype=u.dtype, device=u.device)
        if not self.num_pilot_transitions:
            return size.unsqueeze(0)
        chains, sizes = start(at, u), []
        for temperature in temperatures(self.schedule, self.burn_in).tolist()[1:]:
            move = transition(at, chains, shortened(size), temperature, self.num_leapfrog)
            chains, size = move.chains, adapted(size, move.probability, self.step_size_bounds)
            sizes.append(size)
            tick()
        return torch.stack(sizes)

    def run(self, at: At, u: Tensor, step_sizes: Tensor, tick: Callable[[], object], reverse: bool = False) -> Annealed:
        r"""Anneal chains and return their log-weights.

        .. math:: \log w = \sum_{t=1}^T (b_t - b_{t-1}) (\log p(x, u_{t-1}) - \log q_0(u_{t-1}))

        where u_0 is drawn from q_0 and u_t by a transition from u_{t-1} that leaves the density at b_t invariant. In
        reverse, u_{T-1} is given, and u_{t-1} drawn by that transition from u_t: the forward chain's path backwards.

        Args:
            at: as for :func:`pyro_vae.evaluation.annealing.hmc.leapfrog`.
            u: where the chains start ``(num_chains, batch, dim)``: draws from q_0, in reverse from the posterior.
            step_sizes: what :meth:`step_sizes` returns. Nothing here adapts: the kernels do not depend on the chains.
            tick: called after each transition.
            reverse: from the last density to the first.
        """
        ladder = temperatures(self.schedule, self.num_temperatures).tolist()
        order = range(self.num_temperatures, 0, -1) if reverse else range(1, self.num_temperatures + 1)
        chains = start(at, u)
        log_weight = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        accepted, diverged = torch.zeros_like(log_weight), torch.zeros_like(log_weight)
        for number, t in enumerate(order):
            log_weight += (ladder[t] - ladder[t - 1]) * chains.terms.log_ratio.double()
            if number == self.num_transitions:
                break
            # The density between this interval and the next one.
            shared = t - 1 if reverse else t
            size = step_sizes[math.ceil(len(step_sizes) * shared / self.num_temperatures) - 1]
            move = transition(at, chains, shortened(size), ladder[shared], self.num_leapfrog)
            chains = move.chains
            accepted += move.probability
            diverged += move.diverged
            tick()
        count = self.num_transitions
        acceptance = accepted / count if count else accepted + math.nan
        return Annealed(log_weight, acceptance, diverged / max(count, 1), chains.u)


def shortened(step_sizes: Tensor) -> Tensor:
    """Return each step size times an independent number, uniform from 0.4 to 1.

    References:
        R. Neal (2011), *MCMC using Hamiltonian dynamics*, section 3.2, arXiv 1206.1901.
    """
    return step_sizes * (LEAST + (1 - LEAST) * torch.rand_like(step_sizes))
