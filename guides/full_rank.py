"""The Gaussian guide with a full covariance."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.drawn import Drawn
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count


class CholeskyNormal(dist.MultivariateNormal):
    r"""A Gaussian that scores its own last draw by the noise behind it, and any other z by solving with L.

    Of z = m + L e, the density is :math:`-\frac{1}{2} |e|^2 - \sum_i \log L_{ii} - \frac{d}{2} \log 2 \pi`. To solve
    for e again loses all digits where L is ill-conditioned: the error grows with each row, and in float32 fifty of them
    are enough for a log-density of minus infinity. The remembered log-density is a function of the noise: its gradient
    is the total one of log q(z), by parameters and through z.
    """

    _drawn: Drawn | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample, with the gradient of all arguments."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        log_diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1).log()
        log_prob = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) - log_diagonal.sum(-1)
        self._drawn = Drawn.of(value, log_prob)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``(*batch,)``."""
        if self._validate_args:
            self._validate_sample(value)
        drawn = self._drawn
        if drawn is not None and drawn.scores(value):
            return drawn.log_prob
        return super().log_prob(value)


class FullRankGuide(AmortizedGuide):
    r"""q(z | x) = N(loc(x), L(x) L(x)^T), L lower triangular with a positive diagonal, from one encoder.

    The encoder's last layer grows with the square of ``latent_dim``: :math:`d (d + 3) / 2` features.

    Args:
        x_shape, hidden_dims, activation: as of :class:`AmortizedGuide`.
        latent_dim: d, dimension of z.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, d * (d + 3) // 2)``: the locations, the logs of
            L's diagonal, and what is below it, row by row.

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
        encoder: Network | None = None,
    ) -> None:
        check_count("FullRankGuide", "latent_dim", latent_dim)
        blocks = {
            "location": latent_dim,
            "log diagonal": latent_dim,
            "below the diagonal": latent_dim * (latent_dim - 1) // 2,
        }
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_diagonal, below = self.features(x, *rest)
        strictly_lower = loc.new_zeros(*loc.shape, self.latent_dim)
        strictly_lower[..., self.rows, self.columns] = below
        return CholeskyNormal(loc, scale_tril=strictly_lower + log_diagonal.exp().diag_embed())
