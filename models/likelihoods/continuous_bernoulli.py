"""The continuous Bernoulli likelihood of grey images."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions.bisection import invert_increasing
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood
from pyro_vae.nn import Network

SERIES_BELOW = 0.5
"""Logits nearer to 0 than this take the series, whose first term left out is below a rounding of a float64."""

SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000, 1 / 1046139494400)
r""":math:`B_{2n} / (2n (2n)!)`, the coefficients of :math:`\eta^2, \eta^4, ...` in :math:`A(\eta) - \eta / 2`."""


class ContinuousBernoulli(TorchDistribution):
    r"""Density :math:`\exp(\eta x - A(\eta))` on [0, 1], with :math:`A(\eta) = \log((e^\eta - 1) / \eta)`.

    Written in the logit :math:`\eta` throughout: torch's own goes through the probability, which a float32 cannot
    tell from 1 beyond :math:`\eta` of about 16, so that its normaliser stops growing there.

    Args:
        logits: :math:`\eta`, any shape.

    References:
        G. Loaiza-Ganem, J. Cunningham (2019), *The continuous Bernoulli*, arXiv 1907.06845.

    >>> ContinuousBernoulli(torch.zeros(3)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's protocol)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuousBernoulli":
        """Return a view with another batch shape."""
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each element."""
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * value - log_normalizer(self.logits)

    @property
    def mean(self) -> Tensor:
        r"""Return :math:`A'(\eta) = 1 / (1 - e^{-\eta}) - 1 / \eta`."""
        near, eta = _split(self.logits)
        series = 0.5 + self.logits * _polynomial([2 * n * c for n, c in enumerate(SERIES, 1)], self.logits)
        return torch.where(near, series, -1 / torch.expm1(-eta) - 1 / eta)

    @property
    def variance(self) -> Tensor:
        r"""Return :math:`A''(\eta) = 1 / \eta^2 - e^{-|\eta|} / (1 - e^{-|\eta|})^2`."""
        near, eta = _split(self.logits)
        series = _polynomial([2 * n * (2 * n - 1) * c for n, c in enumerate(SERIES, 1)], self.logits)
        return torch.where(near, series, eta**-2 - torch.exp(-eta.abs()) / torch.expm1(-eta.abs()) ** 2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample by inverting the distribution function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        # Of 1 - x where the logit is positive, so that no exponential overflows.
        eta = -self.logits.abs()
        mirrored = torch.log1p(uniform * torch.expm1(eta)) / torch.where(eta == 0, torch.ones_like(eta), eta)
        value = torch.where(self.logits > 0, 1 - mirrored, mirrored)
        return torch.where(eta == 0, uniform, value).clamp(0, 1)


def log_normalizer(logits: Tensor) -> Tensor:
    r"""Return :math:`A(\eta) = \log((e^\eta - 1) / \eta)`, elementwise."""
    near, eta = _split(logits)
    series = logits / 2 + logits**2 * _polynomial(SERIES, logits)
    magnitude = eta.abs()
    # With m = |eta|: A(-m) = log((1 - e^-m) / m), and A(m) is that plus m.
    value = torch.log(-torch.expm1(-magnitude) / magnitude) + eta.clamp(min=0)
    return torch.where(near, series, value)


def _polynomial(coefficients: Sequence[float], logits: Tensor) -> Tensor:
    """Return c_0 + c_1 eta^2 + c_2 eta^4 + ..., by Horner's rule, of logits near 0."""
    square = logits.clamp(-SERIES_BELOW, SERIES_BELOW) ** 2
    value = torch.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + square * value
    return value


def _split(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the series is due, and logits that the other formula can divide by."""
    near = logits.abs() < SERIES_BELOW
    return near, torch.where(near, torch.ones_like(logits), logits)


class ContinuousBernoulliLikelihood(DecodedLikelihood):
    r"""p(x | z) = :math:`\prod_i \mathcal{CB}(x_i; \eta_i = f_i(z))`, grey x in [0, 1], properly normalised.

    Nats of a density: they compare with other densities of the same grey images, not with those of binary ones.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`DecodedLikelihood`.
        decoder: f, as of :class:`DecodedLikelihood`, with features ``(*batch, prod(x_shape))``: the logits.

    References:
        G. Loaiza-Ganem, J. Cunningham (2019), *The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders*, arXiv 1907.06845.

    >>> p = ContinuousBernoulliLikelihood((1, 28, 28), latent_dim=50)(torch.zeros(5, 7, 50))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5, 7]), torch.Size([1, 28, 28]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        *,
        decoder: Network | None = None,
    ) -> None:
        super().__init__(x_shape, latent_dim, hidden_dims, activation, decoder, {"logit": 1})

    def bias_for(self, mean: Tensor) -> Tensor:
        """Return the logit whose mean this is, clipped to [0.001, 0.999], by bisection."""
        return invert_increasing(lambda eta: ContinuousBernoulli(eta).mean, mean.clamp(0.001, 0.999), -1e4, 1e4)

    def forward(self, z: Tensor) -> Distribution:
        """Return p(x | z) for z ``(*batch, latent_dim)``: batch ``batch``, event ``x_shape``."""
        (logits,) = self.features(z)
        return ContinuousBernoulli(logits).to_event(len(self.x_shape))
