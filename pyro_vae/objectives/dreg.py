"""The importance-weighted bound with the doubly reparameterized gradient."""

from torch import Tensor

from pyro_vae.objectives.at_leaves import LeafBound
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.particle_bound import Sampled


class DReG(IWAE, LeafBound):
    r"""The bound of :class:`IWAE` with the doubly reparameterized gradient for q, whose signal grows with K.

    .. math:: \nabla_\phi L_K = E\Big[\sum_k \bar w_k^2
        \frac{\partial}{\partial z_k} \log \frac{p(x, z_k)}{q(z_k | x)} \nabla_\phi z_k\Big],
        \quad \bar w_k = \frac{w_k}{\sum_j w_j}

    Unbiased for IWAE's own; the model's gradient is IWAE's. Where log q has a factor :math:`\beta` in the weights (a
    KL weight, a mask), :math:`\bar w_k - \beta \bar w_k (1 - \bar w_k)` takes the square's place. The guide must be
    able to score any z: planar and Sylvester flows cannot.

    Args:
        num_particles: K, samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is below 1; (when called) the guide has a site without reparameterized sampling,
            or sites with different scales or masks.

    References:
        G. Tucker, D. Lawson, S. Gu, C. Maddison (2019), *Doubly reparameterized gradient estimators for Monte Carlo
        objectives*, arXiv 1810.04152.

    >>> DReG(num_particles=5).num_particles
    5
    """

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:  # noqa: ARG002 (the gradient is not the value's)
        """Return what is differentiated in place of the bound, ``(batch,)``."""
        if not sampled.pair.latent_scales_agree:
            raise ValueError(
                "DReG: the guide's sites carry different scales or masks, for which it has no unbiased gradient. "
                "Use IWAE, or give all latent sites the same."
            )
        normalized = sampled.terms.log_weight.detach().softmax(0)
        # Of w_k's share in the sum, log q's factor times w_k (1 - w_k) is what the score turns into.
        return self.put_together(sampled, normalized, path_weight=lambda w, scale: 1 - scale * (1 - w))
