"""The base of guides with one encoder: its features, and the sites."""

import math
from collections.abc import Callable, Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.nn import Network, features_of, flatten_event, make_network
from pyro_vae.programs.sites import LATENT, PLATE
from pyro_vae.runtime.checks import check_count


class AmortizedGuide(PyroModule):
    """q(z | x) that a subclass's ``posterior(x)`` reads off the features of one encoder.

    A guide without a closed density has no ``posterior``, and a ``forward`` of its own that uses the features.

    Sites: plate ``"data"`` (dim -1) with ``"z"``, event ``(latent_dim,)``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the default encoder, nearest to x first.
        activation: activation of the default encoder.
        encoder: a module, or a class of modules, from flat x ``(*batch, prod(x_shape))`` to the features that the
            subclass names; an :class:`pyro_vae.nn.MLP` unless given.
        blocks: the number of features for each purpose, in their order; given by the subclass.

    Raises:
        ValueError: ``latent_dim`` is below 1; when called, x does not have ``x_shape``, or the encoder takes or returns
            another number of features.
    """

    encoder: Callable[[Tensor], Tensor]
    posterior: Callable[[Tensor], Distribution]

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        encoder: Network | None,
        blocks: dict[str, int],
    ) -> None:
        super().__init__()
        check_count(type(self).__name__, "latent_dim", latent_dim)
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.blocks = blocks
        self.encoder = make_network(
            encoder, type(self).__name__, "encoder", x_shape=self.x_shape, in_features=math.prod(self.x_shape),
            out_features=sum(blocks.values()), hidden_dims=self.hidden_dims, activation=activation,
        )  # fmt: skip

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's features of x ``(*batch, *x_shape)``, one tensor ``(*batch, size)`` for each block.

        Raises:
            ValueError: x does not have ``x_shape``, or the encoder takes or returns another number of features.
        """
        name = type(self).__name__
        return features_of(self.encoder, flatten_event(x, self.x_shape, name), self.blocks, name, "encoder")

    def forward(self, x: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)``."""
        # Outside the plate, whose dim a model needs that the posterior runs.
        posterior = self.posterior(x)
        with pyro.plate(PLATE, len(x), dim=-1):
            return pyro.sample(LATENT, posterior)
