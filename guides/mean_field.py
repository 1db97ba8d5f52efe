"""The diagonal Gaussian guide."""

from collections.abc import Sequence

from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network


class MeanFieldGuide(AmortizedGuide):
    r"""q(z | x) = N(loc(x), diag(scale(x)^2)), both from one encoder.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`AmortizedGuide`.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * latent_dim)``: the locations, and the log
            scales.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, equation 9, arXiv 1312.6114.

    >>> import torch
    >>> q = MeanFieldGuide((1, 28, 28), latent_dim=50).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        *,
        encoder: Network | None = None,
    ) -> None:
        blocks = {"location": latent_dim, "log scale": latent_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale = self.features(x, *rest)
        return dist.Normal(loc, log_scale.exp()).to_event(1)
