"""The base of guides with one encoder: its features, and the sites."""

import math
from collections.abc import Callable, Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.nn import Network, features_of, make_network
from pyro_vae.nn.further_tensors import encoder_inputs, taken_by
from pyro_vae.programs.sites import LATENT, PLATE
from pyro_vae.runtime.checks import check_count


class AmortizedGuide(PyroModule):
    """q(z | x) that a subclass's ``posterior(x)`` reads off the features of one encoder.

    A guide without a closed density has no ``posterior``, and a ``forward`` of its own that uses the features.

    A datum of several tensors, (x, y, ...), is given to the model and to the guide. Of the further ones the guide uses
    two: a boolean tensor of x's shape is a mask of the observed elements, and the others are 0 for the encoder,
    whatever they hold; and an encoder whose ``forward`` names further arguments, as ``forward(x, observed)``, is called
    with them, flat where they have x's shape. A guide ignores the rest.

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

    encoder: Callable[..., Tensor]
    posterior: Callable[..., Distribution]

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

    def features(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's features of x ``(*batch, *x_shape)``, one tensor ``(*batch, size)`` for each block.

        Args:
            x: data, without NaN where they are observed.
            rest: the further tensors of each datum, ``(*batch, ...)``.

        Raises:
            ValueError: x does not have ``x_shape``, or the encoder takes or returns another number of features.
        """
        name = type(self).__name__
        flat, further = encoder_inputs(name, self.encoder, x, self.x_shape, rest)
        return features_of(self.encoder, flat, self.blocks, name, "encoder", further)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Sample z ``(batch, latent_dim)`` for x ``(batch, *x_shape)`` and the further tensors of each datum."""
        # Outside the plate, whose dim a model needs that the posterior runs. One of a user's own may take x alone.
        posterior = self.posterior(x, *taken_by(self.posterior, rest))
        with pyro.plate(PLATE, len(x), dim=-1):
            return pyro.sample(LATENT, posterior)
