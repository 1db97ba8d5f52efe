"""The negative binomial likelihood of counts of which some are 0 for a reason of their own."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.counts import ZeroInflatedNegativeBinomialCounts
from pyro_vae.models.likelihoods.count_likelihood import CountLikelihood, within_bounds
from pyro_vae.models.likelihoods.decoded import check_learned
from pyro_vae.nn import Network


class ZeroInflatedNegativeBinomialLikelihood(CountLikelihood):
    r"""p(x | z) = :math:`\prod_i [\pi_i(z)\, 1(x_i = 0) + (1 - \pi_i(z))\, \mathrm{NB}(x_i; \mu_i(z), \theta_i)]`.

    .. math:: \pi_i = \sigma(g_i(z)), \qquad \mu_i = \exp f_i(z) \quad \text{or, with a library size } \ell, \quad
        \mu_i = \ell \, \mathrm{softmax}(f(z))_i

    The library size, or size factor, is a further tensor of a datum, (x, library), as the total count of a cell.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        inverse_dispersion: :math:`\theta`: a number, which stays fixed; ``"shared"``, one learned number for all
            elements and data; ``"per_feature"``, one learned number for each element; or ``"predicted"`` by the
            decoder, for each element from z. All that are learned start at 1, and stay between e^-30 and e^30.
        library: whether a datum has a library size.
        decoder: as of :class:`DecodedLikelihood`, with features ``(*batch, 2 * prod(x_shape))``: f, then g, then as
            many :math:`\log \theta` where they are predicted.

    Raises:
        ValueError: ``inverse_dispersion`` is none of these, or not positive; ``library`` is neither True nor False.
        PairError: when called, a library size is missing, or is not used, or is not positive, or has another shape.

    References:
        R. Lopez, J. Regier, M. Cole, M. Jordan, N. Yosef (2018), *Deep generative modeling for single-cell
        transcriptomics*, Nature Methods 15.

    >>> import torch
    >>> p = ZeroInflatedNegativeBinomialLikelihood((2000,), latent_dim=10)(torch.zeros(5, 7, 10))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([2000]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        inverse_dispersion: float | str = "per_feature",
        library: bool = False,
        *,
        decoder: Network | None = None,
    ) -> None:
        check_learned("ZeroInflatedNegativeBinomialLikelihood", "inverse_dispersion", inverse_dispersion)
        blocks = {"log mean": 1, "gate logit": 1}
        if inverse_dispersion == "predicted":
            blocks["log inverse dispersion"] = 1
        super().__init__(x_shape, latent_dim, hidden_dims, activation, library, decoder, blocks)
        self.inverse_dispersion = inverse_dispersion
        self.add_learned("inverse_dispersion", inverse_dispersion)

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the logarithm of twice the mean, since half of the counts start as inflated zeros."""
        return super().bias_for(mean) + math.log(2)

    def forward(self, z: Tensor, library: Tensor | None = None) -> Distribution:
        """Return p(x | z): batch ``batch``, event ``x_shape``.

        Args:
            z: ``(*batch, latent_dim)``.
            library: one size for each datum, ``(batch,)``.
        """
        feature, gate, *predicted = self.features(z)
        log_theta = self.log_learned("inverse_dispersion", self.inverse_dispersion, predicted, feature)
        log_mean = self.log_mean(feature, library)
        counts = ZeroInflatedNegativeBinomialCounts(log_mean, within_bounds(log_theta), gate)
        return counts.to_event(len(self.x_shape))
