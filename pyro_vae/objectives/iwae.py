"""The importance-weighted bound."""

from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, log_mean_exp
from pyro_vae.programs.particles import LogTerms


class IWAE(ParticleBound):
    r"""The importance-weighted bound of each datum, tighter with every further sample.

    .. math:: L_K(x) = E\Big[\log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}\Big] \le \log p(x),
        \quad z_k \sim q(z | x)

    K = 1 is the ELBO. The gradient is autograd's, of the same samples; that of q loses its signal as
    :math:`1 / \sqrt K` (Rainforth et al. 2018), which :class:`DReG` mends.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is below 1.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, equation 8,
        arXiv 1509.00519.

    >>> IWAE(num_particles=5).num_particles
    5
    """

    def __init__(self, num_particles: int = 5, *, plate: str | None = None) -> None:
        super().__init__(num_particles, plate=plate)

    def bound(self, terms: LogTerms) -> Tensor:
        """Return the bound of each datum ``(batch,)`` from terms ``(num_particles, batch)``."""
        return log_mean_exp(terms.log_weight)
