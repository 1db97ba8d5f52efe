"""The generative model of a conditional variational autoencoder."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.nn import MLP, Network, features_of, flatten_event
from pyro_vae.nn.condition import Condition, joined
from pyro_vae.nn.further_tensors import FurtherArguments, further_arguments, likelihood_given
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.runtime.checks import check_count


class ConditionalVAE(PyroModule):
    r"""p(x, z | y) = p(z | y) p(x | z, y), independent over data, with y a label or an array of numbers.

    A datum is (x, y): model and guide are called with both. y has no density, so that every evidence, bound and gap is
    one of log p(x | y). Its features c(y) are the one-hot code of a label, or the numbers themselves, flat.

    .. math::
        p(x | z, y) = p_\theta(x | [z, c(y)]), \qquad
        p(z | y) = p(z) \quad \text{or} \quad N(\mu(c(y)), \mathrm{diag}(\sigma^2(c(y))))

    Any likelihood serves: it is called with z and c(y) behind it, ``(*batch, latent_dim + dim of c(y))``, and with the
    further tensors where a datum has more than two, (x, y, ...), as a size factor of counts. A prior that
    asks the guide for q(z | x), as the VampPrior does, has no y and does not serve.

    Sites: plate ``"data"`` (dim -1) with latent ``"z"``, event ``(latent_dim,)``, and observed ``"x"``, event
    ``x_shape``.

    Args:
        x_shape: shape of one x.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default likelihood's decoder, nearest to z first, and in reverse of the
            conditional prior's network.
        activation: of these networks.
        conditional_prior: whether p(z | y) is learned, a diagonal Gaussian whose locations and log scales are an MLP's
            of c(y). Else p(z | y) is ``prior``, the same for all y.
        num_classes: number of classes, where y are labels, integers from 0 on.
        y_shape: shape of one y; ``()`` for one label. It is needed where y are numbers.
        prior: p(z), a module called with nothing; :class:`StandardNormalPrior` unless given. With a conditional prior,
            none other than this.
        likelihood: p(x | z, y), a module called with z and c(y), and with as many further tensors of a datum as its
            ``forward`` names after that; :class:`BernoulliLikelihood` unless given, in which case ``hidden_dims`` and
            ``activation`` are for the conditional prior's network alone.
        decoder: the default likelihood's network from z and c(y) to x, for which see there; it is then
            ``likelihood.decoder``.

    Attributes:
        prior_network: from c(y) to locations and log scales of z, if the prior is conditional.

    Raises:
        ValueError: neither ``num_classes`` nor ``y_shape`` is given; both ``likelihood`` and ``decoder`` are; or
            ``conditional_prior`` and another prior are. When called, y is missing or does not fit.
        PairError: when called, the likelihood takes fewer or more further tensors.

    References:
        K. Sohn, H. Lee, X. Yan (2015), *Learning structured output representation using deep conditional generative
        models*, NeurIPS, equation 4 (the conditional prior; their x is y here, and their y is x); D. Kingma,
        D. Rezende, S. Mohamed, M. Welling (2014), *Semi-supervised learning with deep generative models*,
        arXiv 1406.5298 (labels).

    >>> import torch
    >>> model = ConditionalVAE((1, 28, 28), latent_dim=50, num_classes=10)
    >>> model(torch.zeros(7, 1, 28, 28), torch.tensor([0, 1, 2, 3, 4, 5, 9])).shape
    torch.Size([7, 50])
    """

    given: ClassVar[str] = "y"
    default_guide: ClassVar[str] = "conditional"
    prior: Callable[[], Distribution] | None
    likelihood: Callable[..., Distribution]

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        conditional_prior: bool = False,
        *,
        num_classes: int | None = None,
        y_shape: Sequence[int] | None = None,
        prior: Callable[[], Distribution] | None = None,
        likelihood: Callable[..., Distribution] | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        check_count("ConditionalVAE", "latent_dim", latent_dim)
        self.condition = Condition("ConditionalVAE", num_classes, y_shape)
        if likelihood is not None and decoder is not None:
            raise ValueError(
                f"ConditionalVAE: a likelihood that is given has its decoder: write "
                f"likelihood={type(likelihood).__name__}(..., decoder=...)."
            )
        if conditional_prior and not isinstance(prior, StandardNormalPrior | None):
            raise ValueError(
                f"ConditionalVAE: conditional_prior=True takes the place of a prior: leave out one of it and "
                f"{type(prior).__name__}."
            )
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.conditional_prior = conditional_prior
        self.num_classes = num_classes
        self.y_shape = None if y_shape is None else tuple(y_shape)
        self.prior = None if conditional_prior else prior or StandardNormalPrior(latent_dim)
        if conditional_prior:
            self.prior_network = MLP(self.condition.dim, self.hidden_dims[::-1], 2 * latent_dim, activation)
        # The likelihood keeps the decoder, and describes it in a run folder.
        self.decoder = None
        self.likelihood = likelihood or BernoulliLikelihood(
            x_shape, latent_dim + self.condition.dim, hidden_dims, activation, decoder=decoder
        )

    @staticmethod
    def likelihood_dim(
        latent_dim: int, num_classes: int | None = None, y_shape: Sequence[int] | None = None, **_: Any
    ) -> int:
        """Return the dimension of what the likelihood is called with: that of z, and that of c(y).

        >>> ConditionalVAE.likelihood_dim(50, num_classes=10)
        60
        """
        return latent_dim + Condition("ConditionalVAE", num_classes, y_shape).dim

    def prior_given(self, y: Tensor) -> Distribution:
        """Return p(z | y) for y ``(*batch, *y_shape)``: event ``(latent_dim,)``, batch ``batch``; ``()`` without y."""
        like = next(iter(self.parameters()))
        batch = y.shape[: y.ndim - len(self.condition.y_shape)]
        return self._prior_at(self.condition.encode(y, like.new_empty(*batch, 0)))

    @property
    def further_arguments(self) -> FurtherArguments:
        """Which further tensors of a datum the model takes after x: y, and those of its likelihood."""
        names, least, takes_all = further_arguments(self.likelihood)
        # That y is missing the model says itself, in more words.
        return FurtherArguments((self.given, *names), 1 + least if least else 0, takes_all)

    def forward(self, x: Tensor, y: Tensor | None = None, *rest: Tensor) -> Tensor:
        """Run the model on x ``(batch, *x_shape)`` given y ``(batch, *y_shape)``; returns z ``(batch, latent_dim)``.

        Args:
            x: data.
            y: labels or numbers.
            rest: further tensors of each datum, ``(batch, ...)``, which the likelihood is called with.
        """
        features = self.condition.encode(y, flatten_event(x, self.x_shape, "ConditionalVAE"))
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(LATENT, self._prior_at(features))
            p = likelihood_given("ConditionalVAE", self.likelihood, joined(z, features), rest)
            pyro.sample(OBSERVED, p, obs=x)
        return z

    def _prior_at(self, features: Tensor) -> Distribution:
        """Return p(z | y) for the features of y."""
        if self.prior is not None:
            return self.prior()
        blocks = {"location": self.latent_dim, "log scale": self.latent_dim}
        loc, log_scale = features_of(self.prior_network, features, blocks, "ConditionalVAE", "prior_network")
        return dist.Normal(loc, log_scale.exp()).to_event(1)
