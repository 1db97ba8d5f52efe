"""The variational Renyi bound."""

from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, log_mean_exp
from pyro_vae.programs.particles import LogTerms
from pyro_vae.runtime.checks import check_number


class RenyiBound(ParticleBound):
    r"""The variational Renyi bound of each datum, estimated with K samples.

    .. math:: L_{\alpha, K}(x) = \frac{1}{1 - \alpha} \log \frac1K \sum_k
        \Big(\frac{p(x, z_k)}{q(z_k | x)}\Big)^{1 - \alpha}

    It falls as :math:`\alpha` rises: 0 gives :class:`IWAE`, towards 1 the ELBO; below 0 the exact bound is an upper
    one, but its estimate with K samples is biased downwards and bounds nothing. One weight for each datum, where
    Pyro's ``RenyiELBO`` has one for the whole batch.

    Args:
        alpha: :math:`\alpha`, any number but 1.
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``alpha`` is 1 or not finite, or ``num_particles`` is below 1.

    References:
        Y. Li, R. Turner (2016), *Renyi divergence variational inference*, arXiv 1602.02311.

    >>> RenyiBound(alpha=0.5, num_particles=5).alpha
    0.5
    """

    def __init__(self, alpha: float = 0.5, num_particles: int = 5, *, plate: str | None = None) -> None:
        check_number("RenyiBound", "alpha", alpha)
        if alpha == 1:
            raise ValueError("RenyiBound: alpha must not be 1, where the bound is the ELBO: use Trace_ELBO.")
        super().__init__(num_particles, plate=plate)
        self.alpha = alpha

    def bound(self, terms: LogTerms) -> Tensor:
        """Return the bound of each datum ``(batch,)`` from terms ``(num_particles, batch)``."""
        power = 1 - self.alpha
        return log_mean_exp(power * terms.log_weight) / power
