"""The guide of several stochastic layers that samples them from the datum upward."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.guides.layers import layer_families, layer_guide
from pyro_vae.nn import Network, flatten_event
from pyro_vae.nn.further_tensors import taken_by
from pyro_vae.nn.latent_layers import between_layers, layer_dims, start_small
from pyro_vae.programs.sites import PLATE, layer_site
from pyro_vae.protocols import PosteriorGuide


class BottomUpGuide(PyroModule):
    r"""q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}): each layer from the one below it.

    Each factor is the posterior of a guide of one layer, whose datum is the layer below: any guide with
    ``posterior(x)`` and without a model will do. That of z_1 is given the further tensors of a datum as well. With the
    defaults this is the recognition network of Burda et al. (2015), x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50),
    with diagonal Gaussians.

    Where the activation has no bounds, as all have but ``"tanh"``, the last layers of the networks that see a draw
    start at a tenth of Glorot's size: at full size the scales of several layers overflow.

    q(z_L | x) has no closed density, so that there is no ``posterior``.

    Sites: plate ``"data"`` (dim -1) with ``"z1"``, nearest to x, to ``"zL"``, events of the layers' dimensions.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of the top layer, z_L.
        hidden_dims: hidden layers of the network from x to q(z_1 | x), nearest to x first.
        activation: of all networks.
        inner_latent_dims: dimensions of z_1 to z_{L-1}, nearest to x first.
        inner_hidden_dims: hidden layers of the network between two latent layers, nearest to x first: one tuple for all
            networks, or one for each, that of q(z_2 | z_1) first.
        layers: the guides of the layers, nearest to x first, as ``"iaf(num_flows=2)"`` or an object; one for all layers
            or one for each.
        encoder: network from flat x, of the guide of z_1, with the features that this guide names.

    Attributes:
        guides: of z_1 to z_L.

    Raises:
        ValueError: a dimension is below 1, ``inner_hidden_dims`` or ``layers`` are for another number of layers, there
            is no guide of a name, or one has no ``posterior``.

    References:
        D. Rezende, S. Mohamed, D. Wierstra (2014), arXiv 1401.4082; Y. Burda, R. Grosse, R. Salakhutdinov (2015),
        *Importance weighted autoencoders*, arXiv 1509.00519, equation 2 and section 5.

    >>> import torch
    >>> guide = BottomUpGuide((1, 28, 28), layers=("mean_field", "iaf(num_flows=2)"))
    >>> [type(layer).__name__ for layer in guide.guides], guide(torch.zeros(7, 1, 28, 28)).shape
    (['MeanFieldGuide', 'InverseAutoregressiveGuide'], torch.Size([7, 50]))
    """

    names_parts: ClassVar[Mapping[str, str]] = MappingProxyType({"layers": "guide"})

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        inner_latent_dims: Sequence[int] = (100,),
        inner_hidden_dims: Sequence[int] | Sequence[Sequence[int]] = (100, 100),
        layers: Sequence[Any] = ("mean_field",),
        *,
        encoder: Network | None = None,
    ) -> None:
        super().__init__()
        dims = layer_dims("BottomUpGuide", latent_dim, inner_latent_dims)
        between = between_layers("BottomUpGuide", inner_hidden_dims, len(dims) - 1)
        each = layer_families("BottomUpGuide", layers, len(dims))
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.inner_latent_dims = dims[:-1]
        self.inner_hidden_dims = inner_hidden_dims
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        below = [self.x_shape, *((dim,) for dim in dims[:-1])]
        hidden = [self.hidden_dims, *between]
        networks = [encoder, *[None] * (len(dims) - 1)]
        self.guides = nn.ModuleList([
            layer_guide("BottomUpGuide", layer, x_shape=below[i], latent_dim=dims[i], hidden_dims=hidden[i],
                        activation=activation, encoder=networks[i])
            for i, layer in enumerate(each)
        ])  # fmt: skip
        for layer, guide in list(zip(each, self.guides, strict=True))[1:]:
            if isinstance(layer, str):
                start_small(getattr(guide, "encoder", None), activation)

    @property
    def encoder(self) -> Any:
        """The network from x, if the guide of z_1 has one."""
        return getattr(self.guides[0], "encoder", None)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Sample all layers for x ``(batch, *x_shape)``, and further tensors of each; returns z_L ``(batch, dim)``."""
        flatten_event(x, self.x_shape, "BottomUpGuide")
        first, *above = cast(Iterable[PosteriorGuide], self.guides)
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(layer_site(1), first.posterior(x, *taken_by(first.posterior, rest)))
            for level, guide in enumerate(above, start=2):
                z = pyro.sample(layer_site(level), guide.posterior(z))
        return z
