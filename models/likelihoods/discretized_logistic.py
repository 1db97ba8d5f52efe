"""The discretized logistic likelihood of 8-bit images."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.bisection import invert_increasing
from pyro_vae.distributions.grey_levels import GreyLevels, check_levels, level_of
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood, check_learned
from pyro_vae.nn import Network

START = 0.1
"""A learned scale before training, in units of x: a standard deviation of 0.18, below that of most pixels."""

LOG_SCALES = (-10.0, 10.0)
"""Beyond these, the logistic lies inside one level, or half below and half above all levels, to rounding; the
scale's reciprocal would overflow in the end."""


class DiscretizedLogistic(TorchDistribution):
    r"""A logistic variable rounded to the nearest grey level :math:`x = k / (L - 1)`.

    .. math::
        P(x) = \sigma((x + h - \mu) / s) - \sigma((x - h - \mu) / s), \qquad h = \frac{1}{2 (L - 1)}

    The first level takes all that lies below it, and the last all above. With a and b the two arguments,
    :math:`\sigma(a) - \sigma(b) = \sigma(a) \sigma(-b) (1 - e^{-(a - b)})`, and a - b = 2h / s is known: the
    logarithm of the product loses no digits, however far the level is from :math:`\mu`.

    Args:
        loc: :math:`\mu`, in the units of x.
        scale: s, in the units of x, of a shape that broadcasts with that of ``loc``.
        levels: L.

    References:
        D. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016), *Improving variational
        inference with inverse autoregressive flow*, arXiv 1606.04934; T. Salimans, A. Karpathy, X. Chen, D. Kingma
        (2017), *PixelCNN++*, arXiv 1701.05517 (edges open).

    >>> p = DiscretizedLogistic(torch.tensor(0.5), torch.tensor(0.1))
    >>> p.support, round(p.mean.item(), 6)
    ({k / 255: k = 0, ..., 255}, 0.5)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (torch's protocol)

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        self.levels = levels
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Return the grid of grey levels."""
        return GreyLevels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        """Return a view with another batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element."""
        if self._validate_args:
            self._validate_sample(value)
        level = level_of(value, self.levels)
        # In units of levels, where one level's upper edge is the next one's lower edge to the last bit.
        loc, scale = self._in_levels()
        not_above, not_below = logsigmoid((level + 0.5 - loc) / scale), logsigmoid((loc - level + 0.5) / scale)
        width = torch.log(-torch.expm1(-1 / scale))
        first, last = level <= 0, level >= self.levels - 1
        return torch.where(first, not_above, torch.where(last, not_below, not_above + not_below + width))

    @property
    def mean(self) -> Tensor:
        r"""Return the mean, which the open edges keep in [0, 1]: the sum of P(level > k) over k."""
        loc, scale = self._in_levels()
        total = loc.new_zeros(self.batch_shape)
        for level in range(self.levels - 1):
            total = total + torch.sigmoid((loc - level - 0.5) / scale)
        return total / (self.levels - 1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample the logistic by inverting its distribution function, and round."""
        loc, scale = self._in_levels()
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        return (loc + scale * uniform.logit()).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def _in_levels(self) -> tuple[Tensor, Tensor]:
        return self.loc * (self.levels - 1), self.scale * (self.levels - 1)


class DiscretizedLogisticLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i` :class:`DiscretizedLogistic` :math:`(x_i; \mu_i(z), s_i)`, x = k / 255.

    Nats of a probability, as 8-bit images have one: they are never positive, and compare as bits per dimension
    with those of any other model of the same pixels.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        scale: s: a number, which stays fixed; ``"shared"``, one learned number for all elements and data;
            ``"per_feature"`` or ``"per_pixel"``, one learned number for each element; or ``"predicted"`` by the
            decoder, for each element from z. All that are learned start at 0.1.
        levels: how many grey levels, 256 for 8-bit images.
        decoder: as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``: the locations, then as
            many log scales where they are predicted.

    Raises:
        ValueError: ``scale`` is none of these, or not positive; there are fewer than two levels.

    References:
        D. Kingma et al. (2016), *Improving variational inference with inverse autoregressive flow*,
        arXiv 1606.04934; T. Salimans et al. (2017), *PixelCNN++*, arXiv 1701.05517 (predicted).

    >>> p = DiscretizedLogisticLikelihood((1, 28, 20), latent_dim=2)(torch.zeros(5, 7, 2))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([1, 28, 20]))
    """

    log_scale: Tensor

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        scale: float | str = "shared",
        levels: int = 256,
        *,
        decoder: Network | None = None,
    ) -> None:
        kinds = ("shared", "per_feature", "per_pixel", "predicted")
        check_learned("DiscretizedLogisticLikelihood", "scale", scale, kinds)
        check_levels("DiscretizedLogisticLikelihood", levels)
        blocks = {"location": 1, "log scale": 1} if scale == "predicted" else {"location": 1}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, blocks)
        self.scale = scale
        self.levels = levels
        self.add_learned("scale", scale, START)

    @torch.no_grad()
    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the location whose mean, with open edges, this is, clipped to [0.001, 0.999], by bisection.

        The scale is that of the moment, or for a predicted one that at the start.
        """
        scale = self._own_scale(mean.double()).to(mean.device)

        def mean_at(loc: Tensor) -> Tensor:
            return DiscretizedLogistic(loc, scale, self.levels, validate_args=False).mean

        reach = 20 * scale.max().item()
        # At 20 scales from the nearest level, all but 2e-9 of the logistic lies beyond it.
        return invert_increasing(mean_at, mean.clamp(0.001, 0.999), -reach, 1 + reach)

    def _own_scale(self, like: Tensor) -> Tensor:
        """Return the scale, without what is predicted of it, in the dtype of ``like``."""
        if self.scale == "predicted":
            return like.new_tensor(START)
        if isinstance(self.scale, str):
            return self.log_scale.to(like.dtype).clamp(*LOG_SCALES).exp()
        return like.new_tensor(self.scale)

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        loc, *predicted = self.features(z)
        scale = self._own_scale(loc)
        if predicted:
            scale = scale * predicted[0].clamp(*LOG_SCALES).exp()
        return DiscretizedLogistic(loc, scale, self.levels).to_event(len(self.x_shape))
