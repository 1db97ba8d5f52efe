"""The diagonal Gaussian guide."""

import math
from collections.abc import Callable, Sequence

import pyro
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.nn import MLP, flatten_event
from pyro_vae.sites import LATENT, PLATE


class MeanFieldGuide(PyroModule):
    r"""q(z | x) = N(loc(x), diag(scale(x)^2)), both from one encoder.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default encoder, nearest to x first.
        activation: activation of the default encoder.
        encoder: a module from flat x ``(*batch, prod(x_shape))`` to ``(*batch, 2 * latent_dim)``, the locations
            followed by the log scales; an :class:`pyro_vae.nn.MLP` unless given.

    Raises:
        ValueError: x does not have ``x_shape``, or the encoder does not return ``2 * latent_dim`` features.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, equation 9, arXiv 1312.6114.

    >>> import torch
    >>> q = MeanFieldGuide((1, 28, 28), latent_dim=50).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    encoder: Callable[[Tensor], Tensor]

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        *,
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.encoder = encoder or MLP(math.prod(self.x_shape), self.hidden_dims, 2 * latent_dim, activation)

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        features = self.encoder(flatten_event(x, self.x_shape, "MeanFieldGuide"))
        if features.shape[-1] != 2 * self.latent_dim:
            raise ValueError(
                f"MeanFieldGuide: `encoder` must return 2 * latent_dim = {2 * self.latent_dim} features "
                f"(location and log scale); got shape {tuple(features.shape)} for x of shape {tuple(x.shape)}."
            )
        loc, log_scale = features.chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)``."""
        with pyro.plate(PLATE, len(x), dim=-1):
            return pyro.sample(LATENT, self.posterior(x))
