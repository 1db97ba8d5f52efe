"""A learned flow as prior."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints

from pyro_vae.nn import MLP
from pyro_vae.runtime.checks import check_count, check_whole

LOG_SCALE_BOUND = 3.0
"""One layer stretches by at most e^3: enough with a few layers, and none can overflow."""


class AffineCoupling(nn.Module):
    r"""Keep one part a of z, and map the other by :math:`b \mapsto b \exp(s(a)) + t(a)`; the identity at first.

    Args:
        dim: of z, at least 2.
        hidden_dims: hidden layers of the network behind s and t.
        activation: see :class:`pyro_vae.nn.MLP`.
        keep_first: whether a is the first ``dim // 2`` coordinates, or b is.
    """

    def __init__(self, dim: int, hidden_dims: Sequence[int], activation: str, keep_first: bool) -> None:
        super().__init__()
        first, second = dim // 2, dim - dim // 2
        self.sizes = [first, second]
        self.keep_first = keep_first
        kept, moved = (first, second) if keep_first else (second, first)
        self.network = MLP(kept, hidden_dims, 2 * moved, activation)
        nn.init.zeros_(self.network.output.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Map z ``(*batch, dim)``."""
        kept, moved = self._split(z)
        log_scale, shift = self._coefficients(kept)
        return self._join(kept, moved * log_scale.exp() + shift)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the map; also return the log-determinant ``(*batch,)`` of the inverse."""
        kept, moved = self._split(z)
        log_scale, shift = self._coefficients(kept)
        return self._join(kept, (moved - shift) * (-log_scale).exp()), -log_scale.sum(-1)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first, second = z.split(self.sizes, dim=-1)
        return (first, second) if self.keep_first else (second, first)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((kept, moved) if self.keep_first else (moved, kept), dim=-1)

    def _coefficients(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(kept).chunk(2, dim=-1)
        return LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND), shift


class CouplingFlow(TorchDistribution):
    r"""The law of :math:`f_T \circ \cdots \circ f_1 (\epsilon)`, :math:`\epsilon \sim N(0, I)`.

    Each call computes anew: torch's transformed distribution would remember a z it has scored, and give it the old
    density after the layers have changed.

    Args:
        layers: :math:`f_1` first, each with ``inverse``.
        like: a tensor ``(*batch, dim)`` of the dtype and on the device of the layers; its values do not matter.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's protocol)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, layers: Sequence[AffineCoupling], like: Tensor, validate_args: bool | None = None) -> None:
        self.layers, self.like = tuple(layers), like
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CouplingFlow":
        """Return a view with another batch shape."""
        like = self.like.expand(torch.Size(batch_shape) + self.event_shape)
        return CouplingFlow(self.layers, like, validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample, with the gradient of the layers."""
        z = torch.randn(self._extended_shape(torch.Size(sample_shape)), dtype=self.like.dtype, device=self.like.device)
        for layer in self.layers:
            z = layer(z)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``(*batch,)``, of any z."""
        if self._validate_args:
            self._validate_sample(value)
        log_det = value.new_zeros(())
        for layer in reversed(self.layers):
            value, found = layer.inverse(value)
            log_det = log_det + found
        zero = torch.zeros_like(self.like)
        return Normal(zero, torch.ones_like(zero), validate_args=False).log_prob(value).sum(-1) + log_det


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
        check_whole("FlowPrior", "latent_dim", latent_dim)
        if latent_dim < 2:
            raise ValueError(
                f"FlowPrior: a coupling layer maps one part of z given the other, so latent_dim must be at least 2; "
                f"got {latent_dim}. In one dimension a mixture is as flexible (GaussianMixturePrior)."
            )
        check_count("FlowPrior", "num_flows", num_flows)
        self.latent_dim = latent_dim
        self.num_flows = num_flows
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.layers = nn.ModuleList(
            AffineCoupling(latent_dim, self.hidden_dims, activation, keep_first=index % 2 == 0)
            for index in range(num_flows)
        )

    def forward(self) -> Distribution:
        """Return p(z): batch ``()``, event ``(latent_dim,)``."""
        layers = [cast(AffineCoupling, layer) for layer in self.layers]
        return CouplingFlow(layers, layers[0].network.output.weight.new_zeros(self.latent_dim))
