"""The generative model with several stochastic layers."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyro
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.nn import MLP, Network, flatten_event
from pyro_vae.nn.further_tensors import FurtherArguments, further_arguments, likelihood_given
from pyro_vae.nn.latent_layers import between_layers, layer_dims, start_small
from pyro_vae.programs.sites import OBSERVED, PLATE, layer_site


class HierarchicalVAE(PyroModule):
    r"""p(x, z) = p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1), independent over data.

    .. math:: p(z_l | z_{l+1}) = N(z_l; \mathrm{loc}_l(z_{l+1}), \mathrm{diag}(\mathrm{scale}_l(z_{l+1})^2))

    Location and log scale of a layer come from one network. With the defaults this is the two-layer model of Burda et
    al. (2015), x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50). Without inner layers it is the VAE, whose latent is then
    called z1. Where the activation has no bounds, as all have but ``"tanh"``, the last layers of the networks between
    latent layers start at a tenth of Glorot's size: at full size the scales of several layers overflow.

    Where a datum has several tensors, (x, y, ...), the likelihood is called with z_1 and the further ones, as by
    :class:`pyro_vae.models.VAE`.

    Sites: plate ``"data"`` (dim -1) with latents ``"z1"``, nearest to x, to ``"zL"``, events of the layers'
    dimensions, and observed ``"x"``, event ``x_shape``.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of the top layer, z_L.
        hidden_dims: hidden layers of the default likelihood's decoder, nearest to z_1 first.
        activation: of that decoder and of the networks between latent layers.
        inner_latent_dims: dimensions of z_1 to z_{L-1}, nearest to x first.
        inner_hidden_dims: hidden layers of the network between two latent layers, nearest to x first: one tuple for all
            networks, or one for each, that of p(z_1 | z_2) first.
        prior: p(z_L), a module called with nothing; :class:`StandardNormalPrior` unless given.
        likelihood: p(x | z_1), a module called with z_1, and with as many further tensors of a datum as its ``forward``
            names after z; :class:`BernoulliLikelihood` unless given, in which case ``hidden_dims`` is not used.
        decoder: the default likelihood's network from z_1 to x, a module or a class of modules, for which see there; it
            is then ``likelihood.decoder``.

    Attributes:
        dims: dimensions of z_1 to z_L.
        networks: of p(z_1 | z_2) to p(z_{L-1} | z_L).

    Raises:
        ValueError: a dimension is below 1, ``inner_hidden_dims`` are for another number of layers, or both
            ``likelihood`` and ``decoder`` are given.
        PairError: when called, the likelihood takes fewer or more further tensors.

    References:
        D. Rezende, S. Mohamed, D. Wierstra (2014), *Stochastic backpropagation and approximate inference in deep
        generative models*, arXiv 1401.4082; Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted
        autoencoders*, arXiv 1509.00519, equation 1 and section 5.

    >>> import torch
    >>> model = HierarchicalVAE((1, 28, 28))
    >>> model.dims, model(torch.zeros(7, 1, 28, 28)).shape
    ((100, 50), torch.Size([7, 100]))
    """

    default_guide: ClassVar[str] = "bottom_up"
    prior: Callable[[], Distribution]
    likelihood: Callable[..., Distribution]

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        inner_latent_dims: Sequence[int] = (100,),
        inner_hidden_dims: Sequence[int] | Sequence[Sequence[int]] = (100, 100),
        *,
        prior: Callable[[], Distribution] | None = None,
        likelihood: Callable[..., Distribution] | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        dims = layer_dims("HierarchicalVAE", latent_dim, inner_latent_dims)
        between = between_layers("HierarchicalVAE", inner_hidden_dims, len(dims) - 1)
        if likelihood is not None and decoder is not None:
            raise ValueError(
                f"HierarchicalVAE: a likelihood that is given has its decoder: write "
                f"likelihood={type(likelihood).__name__}(..., decoder=...)."
            )
        self.x_shape = tuple(x_shape)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.inner_latent_dims = dims[:-1]
        self.inner_hidden_dims = inner_hidden_dims
        self.dims = dims
        self.prior = prior or StandardNormalPrior(latent_dim)
        self.networks = nn.ModuleList(
            [
                MLP(dims[level], hidden[::-1], 2 * dims[level - 1], activation)
                for level, hidden in enumerate(between, start=1)
            ]
        )
        for network in self.networks:
            start_small(network, activation)
        # The likelihood keeps the decoder, and describes it in a run folder.
        self.decoder = None
        self.likelihood = likelihood or BernoulliLikelihood(x_shape, dims[0], hidden_dims, activation, decoder=decoder)

    @staticmethod
    def likelihood_dim(latent_dim: int, inner_latent_dims: Sequence[int] = (100,), **_: object) -> int:
        """Return the dimension of z_1, with which the likelihood is called."""
        return layer_dims("HierarchicalVAE", latent_dim, inner_latent_dims)[0]

    def conditional(self, level: int, above: Tensor) -> Distribution:
        """Return p(z_l | z_{l+1}) of a level l from 1, given z_{l+1} ``(*batch, dim)``: batch ``batch``."""
        loc, log_scale = self.networks[level - 1](above).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    @property
    def further_arguments(self) -> FurtherArguments:
        """Which further tensors of a datum the model takes after x: those that its likelihood takes after z_1."""
        return further_arguments(self.likelihood)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Run the model on x ``(batch, *x_shape)`` and further tensors of each datum; returns z_1 ``(batch, dim)``."""
        flatten_event(x, self.x_shape, "HierarchicalVAE")
        top = len(self.dims)
        with pyro.plate(PLATE, len(x), dim=-1):
            z = pyro.sample(layer_site(top), self.prior())
            for level in range(top - 1, 0, -1):
                z = pyro.sample(layer_site(level), self.conditional(level, z))
            pyro.sample(OBSERVED, likelihood_given("HierarchicalVAE", self.likelihood, z, rest), obs=x)
        return z
