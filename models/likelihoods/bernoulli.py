"""The Bernoulli likelihood of binary images."""

from collections.abc import Sequence

from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.models.likelihoods.decoded import DecodedLikelihood
from pyro_vae.nn import Network


class SoftBernoulli(dist.Bernoulli):
    """The Bernoulli log-mass evaluated at grey values in [0, 1], where it is not normalised.

    ``normalized`` is False, by which an evaluation knows that the nats it reports are no log-likelihood.
    """

    support = constraints.unit_interval
    normalized = False


class BernoulliLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i \mathrm{Bernoulli}(x_i; \sigma(f_i(z)))`, x in {0, 1}.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        soft_targets: accept grey values in [0, 1] as x. What comes out then is not a log-likelihood
            (the mass does not integrate to one over grey x), and its nats compare with no published table.
        decoder: f, as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``: the logits.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, appendix C.1, arXiv 1312.6114.
        G. Loaiza-Ganem, J. Cunningham (2019), *The continuous Bernoulli*, arXiv 1907.06845 (on soft targets).

    >>> import torch
    >>> p = BernoulliLikelihood((1, 28, 28), latent_dim=50)(torch.zeros(5, 7, 50))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([1, 28, 28]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        soft_targets: bool = False,
        *,
        decoder: Network | None = None,
    ) -> None:
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, {"logit": 1})
        self.soft_targets = soft_targets

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the logit of the mean, which is clipped to [0.001, 0.999]."""
        return mean.clamp(0.001, 0.999).logit()

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        bernoulli = SoftBernoulli if self.soft_targets else dist.Bernoulli
        (logits,) = self.features(z)
        return bernoulli(logits=logits).to_event(len(self.x_shape))
