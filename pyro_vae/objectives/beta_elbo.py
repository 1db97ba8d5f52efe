"""The beta-ELBO and its schedules."""

from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import mean_over_particles, sampled_loss
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_number


class BetaELBO(Trace_ELBO):
    r"""The ELBO with a weight on its KL term, fixed or on a schedule.

    .. math:: E_q[\log p(x | z)] - \beta_t \, \mathrm{KL}(q(z | x) \| p(z))

    A lower bound on log p(x) at :math:`\beta \ge 1` only. ``fit`` sets the weight of each epoch and validates at the
    last one, :math:`\beta`; in a loop of your own call ``set_epoch``.

    Args:
        beta: :math:`\beta > 0`, the weight that a schedule ends at.
        warmup: epochs over which the weight rises linearly to ``beta``.
        cycle: epochs after which the rise begins anew; 0 rises once.
        num_particles: samples for each datum.

    Raises:
        ValueError: ``beta`` is not positive, ``warmup`` or ``cycle`` is negative, or a cycle is shorter than its rise.

    References:
        I. Higgins et al. (2017), *beta-VAE*; S. Bowman et al. (2016), arXiv 1511.06349 (warm-up); H. Fu et al. (2019),
        *Cyclical annealing schedule*, arXiv 1903.10145.

    >>> objective = BetaELBO(beta=4.0, warmup=2, cycle=4)
    >>> [objective.kl_weight_at(epoch) for epoch in range(6)]
    [2.0, 4.0, 4.0, 4.0, 2.0, 4.0]
    """

    def __init__(self, beta: float = 1.0, warmup: int = 0, cycle: int = 0, num_particles: int = 1) -> None:
        check_number("BetaELBO", "beta", beta)
        if not beta > 0:
            raise ValueError(f"BetaELBO: beta must be positive; got {beta}.")
        check_count("BetaELBO", "num_particles", num_particles)
        for name, epochs in (("warmup", warmup), ("cycle", cycle)):
            check_count("BetaELBO", name, epochs, least=0)
        if 0 < cycle < warmup:
            raise ValueError(
                f"BetaELBO: a cycle must not be shorter than its warm-up; got warmup={warmup}, cycle={cycle}."
            )
        super().__init__(num_particles=num_particles)
        self.beta, self.warmup, self.cycle = beta, warmup, cycle
        # A tensor, written in place: a captured graph reads it anew at each step.
        self._weight = torch.tensor(beta, dtype=torch.float64)
        self.set_epoch(0)

    def kl_weight_at(self, epoch: int) -> float:
        """Return the weight in an epoch, counted from 0."""
        since = epoch % self.cycle if self.cycle else epoch
        return self.beta * min(1.0, (since + 1) / max(self.warmup, 1))

    def set_epoch(self, epoch: int) -> float:
        """Set the weight to that of an epoch, counted from 0, and return it."""
        weight = self.kl_weight_at(epoch)
        self._weight.fill_(weight)
        return weight

    def final(self) -> "BetaELBO":
        """Return the objective that the schedule ends at."""
        return BetaELBO(self.beta, num_particles=self.num_particles)

    def final_kl_weight(self) -> float:
        """Return the weight that the schedule ends at."""
        return self.beta

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        with KLWeight(self._weight):
            return super()._get_trace(model, guide, args, kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss as a tensor."""
        return mean_over_particles(self, sampled_loss)(model, guide, *args)
