"""The Gaussian guide with a full covariance."""

from collections.abc import Callable, Sequence

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.guides.amortized import AmortizedGuide


class FullRankGuide(AmortizedGuide):
    r"""q(z | x) = N(loc(x), L(x) L(x)^T), L lower triangular with a positive diagonal, from one encoder.

    The encoder's last layer grows with the square of ``latent_dim``: :math:`d (d + 3) / 2` features.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``.

    Args:
        x_shape: shape of one datum.
        latent_dim: d, dimension of z.
        hidden_dims: hidden layers of the default encoder, nearest to x first.
        activation: activation of the default encoder.
        encoder: a module from flat x ``(*batch, prod(x_shape))`` to ``(*batch, d * (d + 3) // 2)``: the locations,
            the logs of L's diagonal, and what is below it, row by row; an :class:`pyro_vae.nn.MLP` unless given.

    Raises:
        ValueError: x does not have ``x_shape``, or the encoder returns another number of features.

    References:
        M. Titsias, M. Lazaro-Gredilla (2014), *Doubly stochastic variational Bayes for non-conjugate inference*
        (the Cholesky parameterization); D. Kingma, M. Welling (2019), *An introduction to variational
        autoencoders*, section 2.5.1, arXiv 1906.02691 (amortized).

    >>> import torch
    >>> q = FullRankGuide((1, 28, 28), latent_dim=50).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        *,
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        blocks = {
            "location": latent_dim,
            "log diagonal": latent_dim,
            "below the diagonal": latent_dim * (latent_dim - 1) // 2,
        }
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_diagonal, below = self.features(x)
        strictly_lower = loc.new_zeros(*loc.shape, self.latent_dim)
        strictly_lower[..., self.rows, self.columns] = below
        return dist.MultivariateNormal(loc, scale_tril=strictly_lower + log_diagonal.exp().diag_embed())
