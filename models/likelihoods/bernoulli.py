"""The Bernoulli likelihood of binary images."""

import math
from collections.abc import Sequence

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.nn import MLP


class SoftBernoulli(dist.Bernoulli):
    """The Bernoulli log-mass evaluated at grey values in [0, 1], where it is not normalised.

    ``normalized`` is False, by which an evaluation knows that the nats it reports are no log-likelihood.
    """

    support = constraints.unit_interval
    normalized = False


class BernoulliLikelihood(nn.Module):
    r"""p(x | z) = :math:`\prod_i \mathrm{Bernoulli}(x_i; \sigma(f_i(z)))`, x in {0, 1}.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the decoder f, nearest to z first.
        activation: see :class:`pyro_vae.nn.MLP`.
        soft_targets: accept grey values in [0, 1] as x. What comes out then is not a log-likelihood
            (the mass does not integrate to one over grey x), and its nats compare with no published table.

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
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.soft_targets = soft_targets
        self.decoder = MLP(latent_dim, self.hidden_dims, math.prod(self.x_shape), activation)

    def initialize_bias(self, mean: Tensor) -> None:
        """Set the output bias to the logit of the training mean, clipped to [0.001, 0.999].

        Args:
            mean: mean of the training data, shape ``x_shape``, in [0, 1].

        Raises:
            ValueError: ``mean`` has another shape.

        References:
            Y. Burda, R. Grosse, R. Salakhutdinov (2015), arXiv 1509.00519, the authors' released code.
        """
        if tuple(mean.shape) != self.x_shape:
            raise ValueError(f"BernoulliLikelihood: mean must have shape {self.x_shape}; got {tuple(mean.shape)}.")
        with torch.no_grad():
            self.decoder.output.bias.copy_(mean.flatten().clamp(0.001, 0.999).logit())

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        bernoulli = SoftBernoulli if self.soft_targets else dist.Bernoulli
        logits = self.decoder(z).unflatten(-1, self.x_shape)
        return bernoulli(logits=logits).to_event(len(self.x_shape))
