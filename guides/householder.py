"""The Gaussian guide whose axes are turned by Householder reflections."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count


class ReflectedNormal(TorchDistribution):
    r"""The law of :math:`H_T \cdots H_1 z_0`, :math:`z_0 \sim N(loc, diag(scale^2))`.

    Here :math:`H_t = I - 2 v_t v_t^T / |v_t|^2` reflects in the plane orthogonal to :math:`v_t`.
    A reflection keeps volumes and is its own inverse: any z can be scored. Where :math:`v_t = 0`, it does nothing.

    Args:
        loc: ``(*batch, d)``.
        scale: ``(*batch, d)``.
        vectors: ``(*batch, T, d)``, :math:`v_1` first, of any length.
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "vectors": constraints.independent(constraints.real, 2),
    }
    support = constraints.real_vector
    has_rsample = True
    family = "full_rank"

    def __init__(self, loc: Tensor, scale: Tensor, vectors: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.vectors = loc, scale, vectors
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ReflectedNormal":
        """Return a view with another batch shape."""
        batch = torch.Size(batch_shape)
        loc, scale = self.loc.expand(batch + self.loc.shape[-1:]), self.scale.expand(batch + self.scale.shape[-1:])
        vectors = self.vectors.expand(batch + self.vectors.shape[-2:])
        return ReflectedNormal(loc, scale, vectors, validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample, with the gradient of all arguments."""
        return reflect(Normal(self.loc, self.scale, validate_args=False).rsample(sample_shape), self.vectors)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``(*batch,)``: that of z with the reflections undone."""
        if self._validate_args:
            self._validate_sample(value)
        before = reflect(value, self.vectors.flip(-2))
        return Normal(self.loc, self.scale, validate_args=False).log_prob(before).sum(-1)

    @property
    def fills_family(self) -> bool:
        """Whether the reflections reach any Gaussian: as many as dims less one turn the axes anywhere."""
        return self.vectors.shape[-2] >= self.event_shape[0] - 1

    @property
    def mean(self) -> Tensor:
        """Return the reflected location."""
        return reflect(self.loc, self.vectors)

    @property
    def covariance_matrix(self) -> Tensor:
        """Return the covariance ``(*batch, d, d)``."""
        axes = reflect(self.scale.diag_embed(), self.vectors.unsqueeze(-3))
        return axes.mT @ axes

    @property
    def variance(self) -> Tensor:
        """Return the diagonal of the covariance."""
        return reflect(self.scale.diag_embed(), self.vectors.unsqueeze(-3)).square().sum(-2)


def reflect(z: Tensor, vectors: Tensor) -> Tensor:
    """Reflect z ``(*batch, d)`` in the planes orthogonal to ``vectors`` ``(*batch, T, d)``, the first one first."""
    # To a length near 1, whose square neither overflows nor vanishes.
    largest = vectors.abs().amax(-1, keepdim=True)
    vectors = vectors / torch.where(largest == 0, torch.ones_like(largest), largest)
    squares = vectors.square().sum(-1, keepdim=True)
    directions = vectors * (2 / torch.where(squares == 0, torch.ones_like(squares), squares))
    for vector, direction in zip(vectors.unbind(-2), directions.unbind(-2), strict=True):
        z = z - direction * (vector * z).sum(-1, keepdim=True)
    return z


class HouseholderGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian turned by ``num_reflections`` Householder reflections, all from one encoder.

    With ``latent_dim`` reflections it is as expressive as :class:`FullRankGuide`; with fewer, it needs fewer features.
    Every vector comes from the encoder, whereas the paper derives each one from the one before by a linear layer.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`AmortizedGuide`.
        num_reflections: T, at least 1.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, (2 + T) * latent_dim)``: the locations and log
            scales before the reflections, and the vectors, the one used first before the others.

    Raises:
        ValueError: ``num_reflections`` is below 1.

    References:
        J. Tomczak, M. Welling (2016), *Improving variational auto-encoders using Householder flow*,
        arXiv 1611.09630.

    >>> q = HouseholderGuide((1, 28, 28), latent_dim=50, num_reflections=3).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_reflections: int = 4,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("HouseholderGuide", "latent_dim", latent_dim)
        check_count("HouseholderGuide", "num_reflections", num_reflections)
        blocks = {"location": latent_dim, "log scale": latent_dim, "vectors": num_reflections * latent_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_reflections = num_reflections

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, vectors = self.features(x, *rest)
        return ReflectedNormal(loc, log_scale.exp(), vectors.unflatten(-1, (self.num_reflections, self.latent_dim)))
