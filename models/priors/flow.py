"""A learned flow as prior."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.distributions import Distribution

from pyro_vae.distributions.coupling import Affine, CouplingLayer, Halves
from pyro_vae.distributions.flow import FlowDistribution
from pyro_vae.nn import MLP
from pyro_vae.runtime.checks import check_count


class FlowPrior(nn.Module):
    r"""p(z): N(0, I) under ``num_flows`` affine coupling layers, which keep either half of z in turn.

    Density and samples cost the same, one pass through the layers. Starts as the standard normal, exactly.

    Args:
        latent_dim: dimension of z, at least 2.
        num_flows: how many layers; with one, half of z stays Gaussian.
        hidden_dims: hidden layers of each layer's network.
        activation: see :class:`pyro_vae.nn.MLP`.

    Raises:
        ValueError: ``latent_dim`` is below 2, or ``num_flows`` below 1.

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), *Density estimation using Real NVP*, arXiv 1605.08803;
        X. Chen et al. (2017), *Variational lossy autoencoder*, arXiv 1611.02731 (a flow as prior).

    >>> prior = FlowPrior(50, num_flows=4)
    >>> prior().batch_shape, prior().event_shape
    (torch.Size([]), torch.Size([50]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_flows: int = 6,
        hidden_dims: Sequence[int] = (100, 100),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        why = " (a layer maps one part of z given the other; in one dim GaussianMixturePrior is as flexible)"
        check_count("FlowPrior", "latent_dim", latent_dim, least=2, why=why)
        check_count("FlowPrior", "num_flows", num_flows)
        self.latent_dim = latent_dim
        self.num_flows = num_flows
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.layers = nn.ModuleList(self._layer(index) for index in range(num_flows))

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        layers = cast(Sequence[CouplingLayer], self.layers)
        loc = next(self.parameters()).new_zeros(self.latent_dim)
        steps = [layer.step() for layer in layers]
        return FlowDistribution(loc, torch.ones_like(loc), steps, owner="FlowPrior", remembers=False)

    def _layer(self, index: int) -> CouplingLayer:
        """Return a layer that is the identity at first."""
        halves = Halves(self.latent_dim, swapped=index % 2 == 1)
        network = MLP(len(halves.fixed), self.hidden_dims, 2 * len(halves.moved), self.activation)
        nn.init.zeros_(network.output.weight)
        return CouplingLayer(halves, network, Affine.bounded)
