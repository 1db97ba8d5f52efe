"""A learned mixture of Gaussians as prior."""

import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import Distribution

from pyro_vae.runtime.checks import check_count


class GaussianMixturePrior(nn.Module):
    r"""p(z) = :math:`\sum_k \pi_k N(\mu_k, \mathrm{diag}(\sigma_k^2))`, weights, locations and scales learned.

    Starts near the standard normal: equal weights, unit scales, locations drawn from N(0, I).

    Args:
        latent_dim: dimension of z.
        num_components: how many Gaussians.

    Raises:
        ValueError: ``num_components`` is below 1.

    References:
        E. Nalisnick, L. Hertel, P. Smyth (2016), *Approximate inference for deep latent Gaussian mixtures*;
        J. Tomczak, M. Welling (2018), *VAE with a VampPrior*, section 3, arXiv 1705.07120 (as a baseline).

    >>> prior = GaussianMixturePrior(50, num_components=10)
    >>> prior().batch_shape, prior().event_shape
    (torch.Size([]), torch.Size([50]))
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        check_count("GaussianMixturePrior", "latent_dim", latent_dim)
        check_count("GaussianMixturePrior", "num_components", num_components)
        self.latent_dim = latent_dim
        self.num_components = num_components
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
