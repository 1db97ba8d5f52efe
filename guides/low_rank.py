"""The Gaussian guide whose covariance is diagonal plus low rank."""

from collections.abc import Sequence

from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count


class LowRankGuide(AmortizedGuide):
    r"""q(z | x) = N(loc(x), diag(scale(x)^2) + F(x) F(x)^T), F of shape (latent_dim, rank), from one encoder.

    Between :class:`MeanFieldGuide` and :class:`FullRankGuide`, which it contains at ``rank = latent_dim - 1``.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`AmortizedGuide`.
        rank: columns of F, from 1 to ``latent_dim``.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, (2 + rank) * latent_dim)``: the locations, the
            log scales, and F, row by row.

    Raises:
        ValueError: the rank is out of range.

    References:
        D. Rezende, S. Mohamed, D. Wierstra (2014), *Stochastic backpropagation and approximate inference in deep
        generative models*, arXiv 1401.4082 (a factor in the precision, of rank one); V. Ong, D. Nott,
        M. Smith (2018), *Gaussian variational approximation with a factor covariance structure*, arXiv 1701.03208.

    >>> import torch
    >>> q = LowRankGuide((1, 28, 28), latent_dim=50, rank=3).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        rank: int = 1,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("LowRankGuide", "latent_dim", latent_dim)
        check_count("LowRankGuide", "rank", rank, most=latent_dim, why=" (latent_dim)")
        blocks = {"location": latent_dim, "log scale": latent_dim, "factor": latent_dim * rank}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.rank = rank

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, factor = self.features(x, *rest)
        factor = factor.unflatten(-1, (self.latent_dim, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, (2 * log_scale).exp())
