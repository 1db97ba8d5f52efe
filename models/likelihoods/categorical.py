"""The categorical likelihood of 8-bit images: any distribution over the grey levels, pixel by pixel."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from pyro_vae.distributions.bisection import invert_increasing
from pyro_vae.distributions.grey_levels import GreyLevels, check_levels, level_of
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood
from pyro_vae.nn import Network


class GreyCategorical(TorchDistribution):
    r"""The grey level x = k / (L - 1) with probability softmax(logits)_k.

    Args:
        logits: ``(*batch, L)``, up to a constant.

    >>> p = GreyCategorical(torch.zeros(7, 256))
    >>> p.batch_shape, p.event_shape, p.support
    (torch.Size([7]), torch.Size([]), {k / 255: k = 0, ..., 255})
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 (torch's protocol)

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def levels(self) -> int:
        """Return the number of grey levels."""
        return self.logits.shape[-1]

    @property
    def support(self) -> constraints.Constraint:
        """Return the grid of grey levels."""
        return GreyLevels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GreyCategorical":
        """Return a view with another batch shape."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-1:])
        return GreyCategorical(logits, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element."""
        if self._validate_args:
            self._validate_sample(value)
        level = level_of(value, self.levels).long().unsqueeze(-1)
        log_probs = self.logits.log_softmax(-1)
        shape = torch.broadcast_shapes(level.shape[:-1], log_probs.shape[:-1])
        return log_probs.expand(*shape, -1).gather(-1, level.expand(*shape, 1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """Return the mean grey level, in [0, 1]."""
        return self.logits.softmax(-1) @ _grid(self.levels, self.logits)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample a grey level, in the logits' dtype."""
        level = Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape))
        return level.to(self.logits.dtype) / (self.levels - 1)


def _grid(levels: int, like: Tensor) -> Tensor:
    return torch.arange(levels, dtype=like.dtype, device=like.device) / (levels - 1)


class CategoricalLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i \mathrm{softmax}(f_i(z))_{255 x_i}`, x = k / 255.

    No shape is imposed on a pixel's distribution, nor is it known that neighbouring levels are alike: ``levels``
    outputs of the decoder for each pixel, whose memory and time they dominate.

    Nats of a probability: they compare as bits per dimension with those of any other model of the same pixels.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        levels: how many grey levels, 256 for 8-bit images.
        decoder: f, as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape) * levels)``: the logits,
            level by level of each pixel.

    Raises:
        ValueError: there are fewer than two levels.

    References:
        A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu (2016), *Pixel recurrent neural networks*,
        arXiv 1601.06759.

    >>> p = CategoricalLikelihood((1, 28, 20), latent_dim=2)(torch.zeros(5, 7, 2))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([1, 28, 20]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        levels: int = 256,
        *,
        decoder: Network | None = None,
    ) -> None:
        check_levels("CategoricalLikelihood", levels)
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, {"logits": levels})
        self.levels = levels

    def bias_for(self, mean: Tensor) -> Tensor:
        r"""Return logits :math:`\eta x` ``(*x_shape, levels)`` with this mean, clipped to [0.001, 0.999].

        Of all distributions on the grid with that mean, theirs has the largest entropy.
        """

        def mean_at(tilt: Tensor) -> Tensor:
            return GreyCategorical(tilt.unsqueeze(-1) * _grid(self.levels, tilt), validate_args=False).mean

        # The mean at eta is about 1 / |eta| from an edge, or exp(-|eta| / levels) / levels: far less than 0.001.
        largest = 20.0 * self.levels
        tilt = invert_increasing(mean_at, mean.clamp(0.001, 0.999), -largest, largest)
        return tilt.unsqueeze(-1) * _grid(self.levels, tilt)

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        (logits,) = self.features(z)
        return GreyCategorical(logits).to_event(len(self.x_shape))
