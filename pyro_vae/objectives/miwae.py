"""The multiply importance-weighted bound."""

from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, log_mean_exp
from pyro_vae.programs.particles import LogTerms
from pyro_vae.runtime.checks import check_count


class MIWAE(ParticleBound):
    r"""The mean of M importance-weighted bounds of K samples each: between the ELBO and IWAE(M K).

    .. math:: L_{M,K}(x) = E\Big[\frac1M \sum_{m=1}^M \log \frac1K \sum_{k=1}^K
        \frac{p(x, z_{m,k})}{q(z_{m,k} | x)}\Big]

    The signal-to-noise ratio of q's gradient goes as :math:`\sqrt{M / K}`.

    Args:
        num_groups: M.
        num_particles: K, samples in each group.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_groups`` or ``num_particles`` is below 1.

    References:
        T. Rainforth et al. (2018), *Tighter variational bounds are not necessarily better*, arXiv 1802.04537.

    >>> MIWAE(num_groups=8, num_particles=8).total_particles
    64
    """

    def __init__(self, num_groups: int = 8, num_particles: int = 8, *, plate: str | None = None) -> None:
        check_count(type(self).__name__, "num_groups", num_groups)
        super().__init__(num_particles, plate=plate)
        self.num_groups = num_groups

    @property
    def total_particles(self) -> int:
        """M K, samples drawn for each datum."""
        return self.num_groups * self.num_particles

    def in_groups(self, values: Tensor) -> Tensor:
        """Return values ``(M K, batch)`` as ``(M, K, batch)``."""
        return values.unflatten(0, (self.num_groups, self.num_particles))

    def bound(self, terms: LogTerms) -> Tensor:
        """Return the bound of each datum ``(batch,)`` from terms ``(M K, batch)``."""
        return log_mean_exp(self.in_groups(terms.log_weight), dim=1).mean(0)
