"""The combination of the ELBO and the importance-weighted bound."""

from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, log_mean_exp
from pyro_vae.programs.particles import LogTerms
from pyro_vae.runtime.checks import check_number


class CIWAE(ParticleBound):
    r"""A weighted mean of the ELBO and the importance-weighted bound, from the same samples.

    .. math:: L(x) = \beta \, E\Big[\frac1K \sum_k \log w_k\Big] + (1 - \beta) \, E\Big[\log \frac1K \sum_k w_k\Big]

    Args:
        beta: :math:`\beta` from 0 (IWAE) to 1 (the ELBO with K samples).
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``beta`` is outside [0, 1], or ``num_particles`` is below 1.

    References:
        T. Rainforth et al. (2018), *Tighter variational bounds are not necessarily better*, arXiv 1802.04537.

    >>> CIWAE(beta=0.5, num_particles=64).beta
    0.5
    """

    def __init__(self, beta: float = 0.5, num_particles: int = 8, *, plate: str | None = None) -> None:
        check_number("CIWAE", "beta", beta)
        if not 0 <= beta <= 1:
            raise ValueError(f"CIWAE: beta must be from 0 to 1; got {beta}.")
        super().__init__(num_particles, plate=plate)
        self.beta = beta

    def bound(self, terms: LogTerms) -> Tensor:
        """Return the bound of each datum ``(batch,)`` from terms ``(num_particles, batch)``."""
        return self.beta * terms.log_weight.mean(0) + (1 - self.beta) * log_mean_exp(terms.log_weight)
