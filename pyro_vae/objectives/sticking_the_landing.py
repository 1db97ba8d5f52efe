"""The ELBO with the path derivative."""

import torch
from torch import Tensor

from pyro_vae.objectives.at_leaves import LeafBound
from pyro_vae.objectives.particle_bound import Sampled


class StickingTheLanding(LeafBound):
    r"""The ELBO, differentiated through the samples alone: no score of q, and no noise where q is the posterior.

    .. math:: \nabla_\phi L = E\Big[\frac{\partial}{\partial z} \log \frac{p(x, z)}{q(z | x)} \nabla_\phi z\Big]

    What is left out, :math:`-\nabla_\phi \log q(z | x)` at a fixed z, has mean zero: the gradient is unbiased, and its
    variance is 0 where q(z | x) = p(z | x). The guide must be able to score any z: planar and Sylvester flows cannot.

    Args:
        num_particles: samples for each datum.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        ValueError: ``num_particles`` is below 1; (when called) the guide has a site without reparameterized sampling.

    References:
        G. Roeder, Y. Wu, D. Duvenaud (2017), *Sticking the landing*, arXiv 1703.09194.

    >>> StickingTheLanding().num_particles
    1
    """

    def surrogate(self, sampled: Sampled, value: Tensor) -> Tensor:  # noqa: ARG002 (the gradient is not the value's)
        """Return what is differentiated in place of the bound, ``(batch,)``."""
        even = torch.full_like(sampled.terms.log_weight, 1 / self.num_particles)
        # The score's mean is zero, whatever multiplies it.
        return self.put_together(sampled, even, path_weight=lambda _weights, _scale: 1)
