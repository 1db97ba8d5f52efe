"""The beta-ELBO and its schedules."""

from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import mean_over_particles, sampled_loss
from pyro_vae.programs.particles import latent_sites
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_number
from pyro_vae.runtime.wording import did_you_mean


class BetaELBO(Trace_ELBO):
    r"""The ELBO with a weight on its KL term, or on that of each latent site, fixed or on a schedule.

    .. math:: E_q[\log p(x | z)] - \sum_s \beta_{s,t} \, E_q\big[\log q(z_s | z_{<s}, x) - \log p(z_s | z_{pa(s)})\big]

    With one weight for all sites this is :math:`E_q[\log p(x | z)] - \beta_t \, \mathrm{KL}(q(z | x) \| p(z))`. A lower
    bound on log p(x) at weights from 1 only. ``fit`` sets the weights of each epoch and validates at the last ones,
    :math:`\beta`; in a loop of your own call ``set_epoch``.

    Args:
        beta: :math:`\beta > 0`, the weight that a schedule ends at; or weights by the name of the latent site, as
            ``{"z1": 1.0, "z2": 0.5}``, where other sites have 1.
        warmup: epochs over which the weight rises linearly to ``beta``; or epochs by the name of the latent site, as
            ``{"z2": 100}``, where other sites have their weight from the start.
        cycle: epochs after which the rise begins anew; 0 rises once.
        num_particles: samples for each datum.

    Raises:
        ValueError: ``beta`` is not positive, ``warmup`` or ``cycle`` is negative, or a cycle is shorter than its rise;
            (when called) a weight is given for what is no latent site.

    References:
        I. Higgins et al. (2017), *beta-VAE*; S. Bowman et al. (2016), arXiv 1511.06349 (warm-up); H. Fu et al. (2019),
        *Cyclical annealing schedule*, arXiv 1903.10145; C. Sonderby et al. (2016), *Ladder variational autoencoders*,
        arXiv 1602.02282 (warm-up of several layers).

    >>> objective = BetaELBO(beta=4.0, warmup=2, cycle=4)
    >>> [objective.kl_weight_at(epoch) for epoch in range(6)]
    [2.0, 4.0, 4.0, 4.0, 2.0, 4.0]
    >>> layered = BetaELBO(warmup={"z1": 2, "z2": 4})
    >>> [layered.kl_weights_at(epoch) for epoch in (0, 3)]
    [{'z1': 0.5, 'z2': 0.25}, {'z1': 1.0, 'z2': 1.0}]
    """

    def __init__(
        self,
        beta: float | dict[str, float] = 1.0,
        warmup: int | dict[str, int] = 0,
        cycle: int = 0,
        num_particles: int = 1,
    ) -> None:
        for name, weight in _named("beta", beta):
            check_number("BetaELBO", name, weight)
            if not weight > 0:
                raise ValueError(f"BetaELBO: {name} must be positive; got {weight}.")
        check_count("BetaELBO", "num_particles", num_particles)
        check_count("BetaELBO", "cycle", cycle, least=0)
        for name, epochs in _named("warmup", warmup):
            check_count("BetaELBO", name, epochs, least=0)
            if 0 < cycle < epochs:
                raise ValueError(
                    f"BetaELBO: a cycle must not be shorter than its warm-up; got {name}={epochs}, cycle={cycle}."
                )
        super().__init__(num_particles=num_particles)
        self.beta, self.warmup, self.cycle = beta, warmup, cycle
        # Tensors, written in place: a captured graph reads them anew at each step.
        self._weight = torch.ones((), dtype=torch.float64)
        self._by_site = {site: torch.ones((), dtype=torch.float64) for site in self.sites}
        self.set_epoch(0)

    @property
    def sites(self) -> tuple[str, ...]:
        """The latent sites with a weight or a warm-up of their own."""
        named = [setting for setting in (self.beta, self.warmup) if isinstance(setting, dict)]
        return tuple(dict.fromkeys(site for setting in named for site in setting))

    def kl_weights_at(self, epoch: int) -> dict[str, float]:
        """Return the weight of each of :attr:`sites` in an epoch, counted from 0."""
        return {site: self._weight_at(epoch, site) for site in self.sites}

    def kl_weight_at(self, epoch: int) -> float:
        """Return the weight in an epoch, counted from 0; of weights by site, their mean."""
        weights = self.kl_weights_at(epoch)
        return sum(weights.values()) / len(weights) if weights else self._weight_at(epoch)

    def set_epoch(self, epoch: int) -> float:
        """Set the weights to those of an epoch, counted from 0, and return :meth:`kl_weight_at`."""
        self._weight.fill_(self._weight_at(epoch))
        for site, weight in self._by_site.items():
            weight.fill_(self._weight_at(epoch, site))
        return self.kl_weight_at(epoch)

    def final(self) -> "BetaELBO":
        """Return the objective that the schedule ends at."""
        return BetaELBO(self.beta, num_particles=self.num_particles)

    def final_kl_weight(self) -> float:
        """Return the weight that the schedule ends at; of weights by site, their mean."""
        weights = [self._final_weight(site) for site in self.sites]
        return sum(weights) / len(weights) if weights else self._final_weight()

    def _final_weight(self, site: str | None = None) -> float:
        return self.beta.get(site or "", 1.0) if isinstance(self.beta, dict) else self.beta

    def _weight_at(self, epoch: int, site: str | None = None) -> float:
        """Return the weight of a site; without a name, of those that have none of their own."""
        warmup = self.warmup.get(site or "", 0) if isinstance(self.warmup, dict) else self.warmup
        since = epoch % self.cycle if self.cycle else epoch
        return self._final_weight(site) * min(1.0, (since + 1) / max(warmup, 1))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        with KLWeight(self._weight, self._by_site):
            traces = super()._get_trace(model, guide, args, kwargs)
        # None of them where all sites have one weight.
        latent = {site["name"] for trace in traces for site in latent_sites(trace)} if self.sites else set()
        for name in self.sites:
            if name not in latent:
                known = ", ".join(repr(site) for site in sorted(latent))
                raise ValueError(
                    f"BetaELBO: {name!r} has a weight or a warm-up, and is no latent site.{did_you_mean(name, latent)} "
                    f"The latent sites are {known}."
                )
        return traces

    def tensor_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss as a tensor."""
        return mean_over_particles(self, sampled_loss)(model, guide, *args)


def _named(name: str, setting: Any) -> list[tuple[str, Any]]:
    """Return a setting, or each of those by site, with what a message calls it."""
    if isinstance(setting, dict):
        return [(f"{name} of {site!r}", value) for site, value in setting.items()]
    return [(name, setting)]
