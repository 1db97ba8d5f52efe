"""The mixture of discretized logistics of 8-bit images, with coupled channels where these are three."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from pyro_vae.distributions.bisection import invert_increasing
from pyro_vae.distributions.grey_levels import GreyLevels, check_levels
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood
from pyro_vae.models.likelihoods.discretized_logistic import LOG_SCALES, START, DiscretizedLogistic
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count

SPREAD = 0.3
"""How far the outermost components start from the mean of an element, in units of x: apart, so that they part."""


class DiscretizedLogisticMixture(TorchDistribution):
    r"""P(x) = :math:`\sum_k \pi_k` :class:`DiscretizedLogistic` :math:`(x; \mu_k, s_k)`, of one element.

    Args:
        logits: of the weights, ``(*batch, K)``, up to a constant.
        loc: :math:`\mu`, ``(*batch, K)``.
        scale: s, positive, ``(*batch, K)``.
        levels: number of grey levels.

    >>> p = DiscretizedLogisticMixture(torch.zeros(7, 2), torch.tensor([0.2, 0.8]).expand(7, 2), torch.ones(7, 2))
    >>> p.batch_shape, p.event_shape, round(p.mean[0].item(), 6)
    (torch.Size([7]), torch.Size([]), 0.5)
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale, self.levels = logits, loc, scale, levels
        super().__init__(loc.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Return the grid of grey levels."""
        return GreyLevels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogisticMixture":
        """Return a view with another batch shape."""
        logits, loc, scale = (part.expand(*batch_shape, part.shape[-1]) for part in (self.logits, self.loc, self.scale))
        return DiscretizedLogisticMixture(logits, loc, scale, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element."""
        if self._validate_args:
            self._validate_sample(value)
        components = DiscretizedLogistic(self.loc, self.scale, self.levels, validate_args=False)
        return (self.logits.log_softmax(-1) + components.log_prob(value.unsqueeze(-1))).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """Return the mean grey level, in [0, 1]."""
        means = DiscretizedLogistic(self.loc, self.scale, self.levels, validate_args=False).mean
        return (self.logits.softmax(-1) * means).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample a component of each element, and its logistic."""
        shape = self._extended_shape(torch.Size(sample_shape))
        component = Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape)).unsqueeze(-1)
        loc, scale = (part.expand(*shape, -1).gather(-1, component).squeeze(-1) for part in (self.loc, self.scale))
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=False).sample()


class CoupledLogisticMixture(TorchDistribution):
    r"""A mixture of discretized logistics for each pixel of three channels, which depend on each other.

    .. math::
        P(r, g, b) = \sum_k \pi_k\, L(r; \mu_k^r, s_k^r)\,
            L(g; \mu_k^g + \alpha_k (r - \tfrac{1}{2}), s_k^g)\,
            L(b; \mu_k^b + \beta_k (r - \tfrac{1}{2}) + \gamma_k (g - \tfrac{1}{2}), s_k^b)

    with L the :class:`DiscretizedLogistic`. The component is one for the whole pixel. This is equation 3 of the paper,
    whose r, g and b run from -1 to 1, in units in which they run from 0 to 1.

    Args:
        logits: of the weights of each pixel, ``(*batch, H, W, K)``, up to a constant.
        loc: :math:`\mu`, ``(*batch, 3, H, W, K)``.
        scale: s, positive, likewise.
        coefficients: :math:`\alpha, \beta, \gamma`, likewise.
        levels: number of grey levels of a channel.

    References:
        T. Salimans, A. Karpathy, X. Chen, D. Kingma (2017), *PixelCNN++*, arXiv 1701.05517, equation 3.

    >>> color = torch.zeros(7, 3, 4, 5, 2)
    >>> p = CoupledLogisticMixture(color[:, 0], color, color.exp(), color)
    >>> p.batch_shape, p.event_shape
    (torch.Size([7]), torch.Size([3, 4, 5]))
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "logits": constraints.independent(constraints.real, 3),
        "loc": constraints.independent(constraints.real, 4),
        "scale": constraints.independent(constraints.positive, 4),
        "coefficients": constraints.independent(constraints.real, 4),
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale, self.coefficients = logits, loc, scale, coefficients
        self.levels = levels
        super().__init__(loc.shape[:-4], loc.shape[-4:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Return the grid of grey levels, of each channel of each pixel."""
        return constraints.independent(GreyLevels(self.levels), 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CoupledLogisticMixture":
        """Return a view with another batch shape."""
        batch, old = torch.Size(batch_shape), len(self.batch_shape)
        logits, loc, scale, coefficients = (
            part.expand(batch + part.shape[old:]) for part in (self.logits, self.loc, self.scale, self.coefficients)
        )
        return CoupledLogisticMixture(logits, loc, scale, coefficients, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each image."""
        if self._validate_args:
            self._validate_sample(value)
        components = self._components(self.loc + self._shifts(*value.unsqueeze(-1).unbind(-4)[:2]))
        pixels = components.log_prob(value.unsqueeze(-1)).sum(-4) + self.logits.log_softmax(-1)
        return pixels.logsumexp(-1).sum((-1, -2))

    @property
    def mean(self) -> Tensor:
        """Return what grey levels are expected, in [0, 1], where g and b are given the means of r and g.

        It is the mean but for what the open edges cut off: exact for r, and for g and b where their coefficients are 0.
        """
        red = self._components(self.loc).mean.select(-4, 0)
        # The shift of green does not depend on green.
        green = self._components(self.loc + self._shifts(red, red)).mean.select(-4, 1)
        means = self._components(self.loc + self._shifts(red, green)).mean
        return (self.logits.softmax(-1).unsqueeze(-4) * means).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample a component of each pixel, and its r, g and b, each given those before."""
        shape = torch.Size(sample_shape)
        component = Categorical(logits=self.logits, validate_args=False).sample(shape)
        index = component.unsqueeze(-1).unsqueeze(-4).expand(*component.shape[:-2], 3, *component.shape[-2:], 1)
        loc, scale, coefficients = (
            part.expand(shape + part.shape).gather(-1, index).squeeze(-1).unbind(-3)
            for part in (self.loc, self.scale, self.coefficients)
        )
        alpha, beta, gamma = coefficients

        def draw(channel: int, shift: Tensor | float) -> Tensor:
            law = DiscretizedLogistic(loc[channel] + shift, scale[channel], self.levels, validate_args=False)
            return law.sample()

        red = draw(0, 0.0)
        green = draw(1, alpha * (red - 0.5))
        return torch.stack([red, green, draw(2, beta * (red - 0.5) + gamma * (green - 0.5))], dim=-3)

    def _components(self, loc: Tensor) -> DiscretizedLogistic:
        return DiscretizedLogistic(loc, self.scale, self.levels, validate_args=False)

    def _shifts(self, red: Tensor, green: Tensor) -> Tensor:
        """Return what r and g, ``(*batch, H, W, 1)`` or for each component, add to the locations."""
        alpha, beta, gamma = self.coefficients.unbind(-4)
        red, green = red - 0.5, green - 0.5
        shifts = torch.broadcast_tensors(torch.zeros_like(red), alpha * red, beta * red + gamma * green)
        return torch.stack(shifts, dim=-4)


class DiscretizedLogisticMixtureLikelihood(DecodedLikelihood):
    r"""p(x | z): a mixture of K discretized logistics for each pixel, x = k / 255.

    Images of three channels, ``x_shape`` (3, H, W), are taken as red, green and blue: the channels of a pixel share
    their component, and the means of green and blue depend on the channels before, as in PixelCNN++
    (:class:`CoupledLogisticMixture`, with coefficients between -1 and 1). Elements of all other shapes are independent
    given z, each with a mixture of its own (:class:`DiscretizedLogisticMixture`).

    Nats of a probability: they compare as bits per dimension with those of any other model of the same pixels. Coupled
    channels have no densities of their own, so that :class:`pyro_vae.models.MaskedVAE` refuses them.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        num_components: K, at least 1.
        levels: how many grey levels, 256 for 8-bit images.
        decoder: as of :class:`DecodedLikelihood`, with features ``(*batch, 3 * K * prod(x_shape))``: the locations, the
            log scales in units of 0.1, and the logits of the weights, K for each element, of which those of the
            channels of a coupled pixel are added up; where channels are coupled, then as many inverse hyperbolic
            tangents of the coefficients.

    Attributes:
        coupled: whether the channels of a pixel are coupled.

    Raises:
        ValueError: there are fewer than one component or two levels.

    References:
        T. Salimans, A. Karpathy, X. Chen, D. Kingma (2017), *PixelCNN++: Improving the PixelCNN with discretized
        logistic mixture likelihood and other modifications*, arXiv 1701.05517, section 2.1 and equation 3.

    >>> p = DiscretizedLogisticMixtureLikelihood((3, 8, 8), latent_dim=2, num_components=2)(torch.zeros(5, 7, 2))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([3, 8, 8]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_components: int = 5,
        levels: int = 256,
        *,
        decoder: Network | None = None,
    ) -> None:
        check_count("DiscretizedLogisticMixtureLikelihood", "num_components", num_components)
        check_levels("DiscretizedLogisticMixtureLikelihood", levels)
        coupled = len(x_shape) == 3 and x_shape[0] == 3
        names = ("location", "log scale", "logits", *(("coefficient",) if coupled else ()))
        blocks = dict.fromkeys(names, num_components)
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, blocks)
        self.num_components = num_components
        self.levels = levels
        self.coupled = coupled

    @torch.no_grad()
    def bias_for(self, mean: Tensor) -> Tensor:
        """Return locations ``(*x_shape, K)`` 0.3 apart at most from the one in their middle, which give this mean.

        The mean is clipped to [0.001, 0.999]. The weights are equal and the scales 0.1, as at the start.
        """
        count = self.num_components
        offsets = torch.linspace(-SPREAD, SPREAD, count).double() if count > 1 else torch.zeros(1).double()
        offsets = offsets.to(mean.device)
        scale = offsets.new_tensor(START)

        def mean_at(middle: Tensor) -> Tensor:
            components = DiscretizedLogistic(middle.unsqueeze(-1) + offsets, scale, self.levels, validate_args=False)
            return components.mean.mean(-1)

        # At 20 scales from the nearest level, all but 2e-9 of a logistic lies beyond it.
        reach = SPREAD + 20 * START
        middle = invert_increasing(mean_at, mean.clamp(0.001, 0.999), -reach, 1 + reach)
        return middle.unsqueeze(-1) + offsets

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        # A block of size 1 has no dim of its own.
        blocks = [block.reshape(*z.shape[:-1], *self.x_shape, self.num_components) for block in self.features(z)]
        loc, log_scale, logits = blocks[:3]
        scale = START * log_scale.clamp(*LOG_SCALES).exp()
        if self.coupled:
            return CoupledLogisticMixture(logits.sum(-4), loc, scale, blocks[3].tanh(), self.levels)
        return DiscretizedLogisticMixture(logits, loc, scale, self.levels).to_event(len(self.x_shape))
