"""The Poisson likelihood of counts."""

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.counts import PoissonCounts
from pyro_vae.models.likelihoods.count_likelihood import CountLikelihood
from pyro_vae.nn import Network


class PoissonLikelihood(CountLikelihood):
    r"""p(x | z) = :math:`\prod_i \mathrm{Poisson}(x_i; \mu_i(z))`, x in {0, 1, 2, ...}.

    .. math:: \mu_i = \exp f_i(z) \quad \text{or, with a library size } \ell, \quad \mu_i = \ell \,
        \mathrm{softmax}(f(z))_i

    The library size, or size factor, is a further tensor of a datum, (x, library), as the total count of a cell. It is
    given, and p(x | z, library) is a density of x alone.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        library: whether a datum has a library size.
        decoder: f, as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``.

    Raises:
        ValueError: ``library`` is neither True nor False.
        PairError: when called, a library size is missing, or is not used, or is not positive, or has another shape.

    References:
        D. Liang, R. Krishnan, M. Hoffman, T. Jebara (2018), *Variational autoencoders for collaborative filtering*,
        arXiv 1802.05814; R. Lopez, J. Regier, M. Cole, M. Jordan, N. Yosef (2018), *Deep generative modeling for
        single-cell transcriptomics*, Nature Methods 15 (library sizes).

    >>> import torch
    >>> p = PoissonLikelihood((2000,), latent_dim=10, library=True)(torch.zeros(7, 10), torch.full((7,), 5000.0))
    >>> p.batch_shape, p.event_shape, p.mean.sum(-1)[0].round().item()
    (torch.Size([7]), torch.Size([2000]), 5000.0)
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        library: bool = False,
        *,
        decoder: Network | None = None,
    ) -> None:
        super().__init__(x_shape, latent_dim, hidden_dims, activation, library, decoder, {"log mean": 1})

    def forward(self, z: Tensor, library: Tensor | None = None) -> Distribution:
        """Return p(x | z): batch ``batch``, event ``x_shape``.

        Args:
            z: ``(*batch, latent_dim)``.
            library: one size for each datum, ``(batch,)``.
        """
        (feature,) = self.features(z)
        return PoissonCounts(self.log_mean(feature, library)).to_event(len(self.x_shape))
