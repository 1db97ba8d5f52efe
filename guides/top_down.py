"""The guide of several stochastic layers that corrects the model's own path from the top down."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pyro_vae.guides.gaussian_product import gaussian_product
from pyro_vae.guides.layers import layer_families, layer_guide
from pyro_vae.guides.spline import SplineGuide
from pyro_vae.nn import MLP, Network, features_of, make_network
from pyro_vae.nn.further_tensors import encoder_inputs
from pyro_vae.nn.latent_layers import between_layers, layer_dims
from pyro_vae.nn.mlp import ACTIVATIONS
from pyro_vae.programs.sites import PLATE, layer_site
from pyro_vae.protocols import PosteriorGuide

WHO = "TopDownGuide"


class TopDownGuide(PyroModule):
    r"""q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x): the ladder guide, which shares the model's path.

    A deterministic upward pass d_l = f_l(d_{l-1}), d_0 = x, gives an estimate of each layer, by default
    :math:`N(\hat\mu_l(d_l), \hat\sigma_l(d_l)^2)`. The top layer has its estimate for q. Every other one has the
    normalized product of its estimate with the model's :math:`p(z_l | z_{l+1}) = N(\mu_p, \sigma_p^2)`:

    .. math:: q(z_l | z_{l+1}, x) = N\left(\frac{\hat\mu \hat\sigma^{-2} + \mu_p \sigma_p^{-2}}
        {\hat\sigma^{-2} + \sigma_p^{-2}}, \frac{1}{\hat\sigma^{-2} + \sigma_p^{-2}}\right)

    so that a layer of which x says nothing follows the model. The estimate is the posterior of a guide of one layer
    whose datum is d_l: a Gaussian (diagonal, low-rank or full) or a mixture of diagonal ones, whose product is of the
    same family; or a flow from a Gaussian, whose base is merged before its steps.

    ``posterior(x)`` is q(z_L | x), the only law that is closed given x alone; a VampPrior on the top layer asks for it.

    Further tensors of a datum, (x, y, ...), are used as by the guides of one layer: a boolean tensor of x's shape is a
    mask of its observed elements, and an encoder is called with those that its ``forward`` names.

    The model is no part of the guide, which has neither its parameters nor its state. But gradients reach the model's
    parameters through the guide, too. The paper's networks have batch normalization; these have none.

    Sites: plate ``"data"`` (dim -1) with ``"z1"``, nearest to x, to ``"zL"``, events of the layers' dimensions.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of the top layer, z_L.
        hidden_dims: hidden layers of f_1, nearest to x first, the last of which is d_1. If there are none, d_1 is x.
        activation: of all networks.
        inner_latent_dims: dimensions of z_1 to z_{L-1}, nearest to x first.
        inner_hidden_dims: hidden layers of f_2 to f_L, nearest to x first: one tuple for all, or one for each.
        layers: the guides of the layers, nearest to x first, as ``"low_rank(rank=2)"`` or an object for data of d_l's
            width; one for all layers or one for each. Made by name they have no hidden layers.
        model: p(x, z), the model that the guide is used with, as :class:`pyro_vae.models.HierarchicalVAE`: it has
            ``conditional(level, above)``, which returns p(z_l | z_{l+1}), a diagonal Gaussian.
        encoder: f_1 up to its last activation: a module, or a class of modules, from flat x ``(*batch,
            prod(x_shape))`` to ``(*batch, hidden_dims[-1])``, or to as many features as x has where ``hidden_dims`` is
            empty; an :class:`pyro_vae.nn.MLP` unless given.

    Attributes:
        estimates: the guides of z_1 to z_L, each of its d_l.

    Raises:
        ValueError: a dimension is below 1, ``inner_hidden_dims`` or ``layers`` are for another number of layers, the
            guide of a layer has no ``posterior`` or scales its flow's end, or the model has no ``conditional``; when
            called, the model's layers are of other dimensions or no diagonal Gaussians, or a posterior has no product
            with them.

    References:
        C. Sonderby, T. Raiko, L. Maaloe, S. Sonderby, O. Winther (2016), *Ladder variational autoencoders*,
        arXiv 1602.02282; with flows: D. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016),
        arXiv 1606.04934.

    >>> from pyro_vae.models import HierarchicalVAE
    >>> import torch
    >>> x = torch.zeros(7, 1, 28, 28)
    >>> guide = TopDownGuide((1, 28, 28), model=HierarchicalVAE((1, 28, 28)))
    >>> guide(x).shape, guide.posterior(x).event_shape
    (torch.Size([7, 100]), torch.Size([50]))
    """

    encoder: Callable[..., Tensor] | None
    names_parts: ClassVar[Mapping[str, str]] = MappingProxyType({"layers": "guide"})
    prior_comes_later: ClassVar[bool] = True
    """The model's prior may need ``posterior``, which uses none of the model."""

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
        model: Any,
        encoder: Network | None = None,
    ) -> None:
        super().__init__()
        dims = layer_dims(WHO, latent_dim, inner_latent_dims)
        hidden = (tuple(hidden_dims), *between_layers(WHO, inner_hidden_dims, len(dims) - 1))
        each = layer_families(WHO, layers, len(dims))
        if not callable(getattr(model, "conditional", None)):
            raise ValueError(
                f"{WHO}: model must have conditional(level, above), its p(z_l | z_{{l+1}}), as HierarchicalVAE has; "
                f"{type(model).__name__} has none."
            )
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.inner_latent_dims = dims[:-1]
        self.inner_hidden_dims = inner_hidden_dims
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.dims = dims
        # In a tuple, where torch does not look for modules.
        self._models = (model,)
        width = math.prod(self.x_shape)
        widths = [width := layers[-1] if layers else width for layers in hidden]
        self._width = widths[0]
        self.encoder = None
        if encoder is not None or hidden[0]:
            self.encoder = make_network(
                encoder, WHO, "encoder", x_shape=self.x_shape, in_features=math.prod(self.x_shape),
                out_features=widths[0], hidden_dims=hidden[0][:-1], activation=activation,
            )  # fmt: skip
        self.upward = nn.ModuleList(
            [
                MLP(width, layers[:-1], layers[-1], activation) if layers else nn.Identity()
                for width, layers in zip(widths[:-1], hidden[1:], strict=True)
            ]
        )
        self.estimates = nn.ModuleList(
            [
                _estimate(layer, x_shape=(width,), latent_dim=dim, hidden_dims=(), activation=activation)
                for layer, width, dim in zip(each, widths, dims, strict=True)
            ]
        )
        self.activate = ACTIVATIONS[activation]()

    @property
    def model(self) -> Any:
        """p(x, z), whose path is shared."""
        return self._models[0]

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z_L | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        return self._guides[-1].posterior(self._upward(x, rest)[-1])

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Sample all layers for x ``(batch, *x_shape)``, and further tensors of each datum; returns z_1."""
        *below, top = [guide.posterior(d) for guide, d in zip(self._guides, self._upward(x, rest), strict=True)]
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(layer_site(len(self.dims)), top)
            for level in range(len(below), 0, -1):
                z = pyro.sample(layer_site(level), gaussian_product(below[level - 1], self._path(level, z)))
        return z

    @property
    def _guides(self) -> Sequence[PosteriorGuide]:
        return cast(Sequence[PosteriorGuide], self.estimates)

    def _upward(self, x: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
        """Return d_1 to d_L."""
        encoder = nn.Identity() if self.encoder is None else self.encoder
        d, further = encoder_inputs(WHO, encoder, x, self.x_shape, rest)
        if self.encoder is not None:
            (d,) = features_of(encoder, d, {"upward": self._width}, WHO, "encoder", further)
            d = self.activate(d)
        passed = [d]
        for upward in self.upward:
            d = d if isinstance(upward, nn.Identity) else self.activate(upward(d))
            passed.append(d)
        return passed

    def _path(self, level: int, above: Tensor) -> Normal:
        """Return the model's p(z_l | z_{l+1}), dim by dim."""
        p = self.model.conditional(level, above)
        if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
            raise ValueError(
                f"{WHO}: the model's conditional must be a diagonal Gaussian, Normal(...).to_event(1), for a product "
                f"of precisions; that of level {level} is {type(p).__name__}. BottomUpGuide takes any."
            )
        dim = self.dims[level - 1]
        if p.event_shape != (dim,):
            raise ValueError(
                f"{WHO}: the model's {layer_site(level)} must have {dim} dims; it has {tuple(p.event_shape)}. Give the "
                f"model and the guide the same inner_latent_dims."
            )
        path: Normal = p.base_dist
        return path


def _estimate(layer: Any, **sizes: Any) -> Any:
    """Return the guide of a layer, whose location and scale can be merged."""
    guide = layer_guide(WHO, layer, **sizes)
    if isinstance(guide, SplineGuide):
        raise ValueError(
            f"{WHO}: SplineGuide has its location and scale behind its flow, where the model's path cannot be merged "
            f"with them. InverseAutoregressiveGuide has them before it."
        )
    return guide
