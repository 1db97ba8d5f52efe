"""The standard normal prior."""

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.runtime.checks import check_count


class StandardNormalPrior(nn.Module):
    r"""p(z) = N(0, I).

    Args:
        latent_dim: dimension of z.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, arXiv 1312.6114.

    >>> prior = StandardNormalPrior(50)
    >>> prior().batch_shape, prior().event_shape
    (torch.Size([]), torch.Size([50]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_count("StandardNormalPrior", "latent_dim", latent_dim)
        self.latent_dim = latent_dim
        # Buffers follow the module's device and dtype; constants have no place in a checkpoint.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        return dist.Normal(self.loc, self.scale).to_event(1)
