"""The variational autoencoder's generative model."""

from collections.abc import Callable, Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.nn import Network, flatten_event
from pyro_vae.nn.further_tensors import FurtherArguments, further_arguments, likelihood_given
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.runtime.checks import check_count


class VAE(PyroModule):
    r"""p(x, z) = p(z) p(x | z), independent over data.

    Where a datum has several tensors, (x, y, ...), the likelihood is called with z and the further ones, and the model
    is p(z) p(x | z, y, ...): a size factor of counts, for one, which is given and has no density.

    Sites: plate ``"data"`` (dim -1) with latent ``"z"``, event ``(latent_dim,)``, and observed ``"x"``, event
    ``x_shape``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default likelihood's decoder, nearest to z first.
        activation: activation of the default likelihood's decoder.
        prior: p(z), a module called with nothing; :class:`StandardNormalPrior` unless given.
        likelihood: p(x | z), a module called with z, and with as many further tensors of a datum as its ``forward``
            names after z; :class:`BernoulliLikelihood` unless given, in which case ``hidden_dims`` and ``activation``
            are not used.
        decoder: the default likelihood's network from z to x, a module or a class of modules, for which see there; it
            is then ``likelihood.decoder``.

    Raises:
        ValueError: both ``likelihood`` and ``decoder`` are given.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, arXiv 1312.6114.
        D. Rezende, S. Mohamed, D. Wierstra (2014), arXiv 1401.4082.

    >>> import torch
    >>> VAE((1, 28, 28), latent_dim=50)(torch.zeros(7, 1, 28, 28)).shape
    torch.Size([7, 50])
    """

    prior: Callable[[], Distribution]
    likelihood: Callable[..., Distribution]

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        *,
        prior: Callable[[], Distribution] | None = None,
        likelihood: Callable[..., Distribution] | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        check_count("VAE", "latent_dim", latent_dim)
        if likelihood is not None and decoder is not None:
            raise ValueError(
                f"VAE: a likelihood that is given has its decoder: write "
                f"likelihood={type(likelihood).__name__}(..., decoder=...)."
            )
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.prior = prior or StandardNormalPrior(latent_dim)
        # The likelihood keeps the decoder, and describes it in a run folder.
        self.decoder = None
        self.likelihood = likelihood or BernoulliLikelihood(
            x_shape, latent_dim, hidden_dims, activation, decoder=decoder
        )

    @property
    def further_arguments(self) -> FurtherArguments:
        """Which further tensors of a datum the model takes after x: those that its likelihood takes after z."""
        return further_arguments(self.likelihood)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Run the model on x ``(batch, *x_shape)``; returns z ``(batch, latent_dim)``.

        Args:
            x: data.
            rest: the further tensors of each datum, ``(batch, ...)``, which the likelihood is called with after z.

        Raises:
            PairError: the likelihood takes fewer or more further tensors.
        """
        flatten_event(x, self.x_shape, type(self).__name__)
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(LATENT, self.prior())
            pyro.sample(OBSERVED, likelihood_given(type(self).__name__, self.likelihood, z, rest), obs=x)
        return z
