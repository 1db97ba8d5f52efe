"""Laws of counts, 0, 1, 2, ..., exact in float32 also for large counts and means: Poisson and negative binomial."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

SERIES_FROM = 16.0
"""From where on Stirling's series is used; its first term left out is then below 4e-16."""

SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
r""":math:`B_{2n} / (2n (2n - 1))`, the coefficients of :math:`a^{-1}, a^{-3}, ...`"""

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

STEEP = 20.0
"""From where on log(1 - a + a e^r) is computed from logarithms, as e^r may overflow."""


class Counts(constraints.Constraint):
    """The whole numbers from 0 on.

    >>> Counts().check(torch.tensor([0.0, 3.0, 2.5, -1.0, torch.inf, torch.nan]))
    tensor([ True,  True, False, False, False, False])
    """

    is_discrete = True
    lower_bound = 0

    def check(self, value: Tensor) -> Tensor:
        """Return which values are counts."""
        return (value >= 0) & (value % 1 == 0)

    def __repr__(self) -> str:
        return "{0, 1, 2, ...}"

    def advice(self, outside: Tensor) -> str:
        """Return what to do about values that are no counts, in a sentence.

        >>> Counts().advice(torch.tensor([0.6931]))
        'A count is whole and not negative, which 0.6931 is not: give the counts as they were before they were
        normalised or logarithms were taken, or choose a likelihood of real values, as gaussian.'
        """
        return (
            f"A count is whole and not negative, which {outside.flatten()[0].item():.4g} is not: give the counts as "
            f"they were before they were normalised or logarithms were taken, or choose a likelihood of real values, "
            f"as gaussian."
        )


class _CountLaw(TorchDistribution):
    """A law of counts whose parameters, named in ``arg_constraints``, broadcast with each other."""

    support = Counts()

    def __init__(self, validate_args: bool | None = None, **parameters: Tensor) -> None:
        shape = torch.broadcast_shapes(*(parameter.shape for parameter in parameters.values()))
        for name, parameter in parameters.items():
            setattr(self, name, parameter)
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return a view with another batch shape."""
        parameters = {name: getattr(self, name).expand(batch_shape) for name in self.arg_constraints}
        return type(self)(**parameters, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each element."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample counts, in the parameters' dtype."""
        return self._sample(self._extended_shape(torch.Size(sample_shape)))

    def _log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def _sample(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class PoissonCounts(_CountLaw):
    r"""P(x) = :math:`e^{-\mu} \mu^x / x!`, in the logarithm of the mean :math:`\mu`.

    For counts from 16 on it is computed as :math:`-x (e^r - 1 - r) - \frac{1}{2} \log 2 \pi x - \delta(x)`, with
    :math:`r = \log \mu - \log x` and Stirling's error :math:`\delta`: terms as large as :math:`x \log x`, of which
    float32 would lose whole nats, do not arise.

    Args:
        log_mean: any shape.

    References:
        C. Loader (2000), *Fast and accurate computation of binomial probabilities* (the saddle-point form).

    >>> p = PoissonCounts(torch.tensor([0.0, 18.0]))
    >>> p.support, p.log_prob(torch.tensor([1.0, 0.0]))[0].item()
    ({0, 1, 2, ...}, -1.0)
    """

    arg_constraints = {"log_mean": constraints.real}  # noqa: RUF012 (torch's protocol)
    log_mean: Tensor

    def __init__(self, log_mean: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, log_mean=log_mean)

    @property
    def mean(self) -> Tensor:
        r"""Return :math:`\mu`."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        r"""Return :math:`\mu`."""
        return self.mean

    def _log_prob(self, value: Tensor) -> Tensor:
        few = value < SERIES_FROM
        direct = value * self.log_mean - self.log_mean.exp() - torch.lgamma(value + 1)
        # In the place of few counts stands one of the others, so that no gradient is NaN.
        many = torch.where(few, torch.full_like(value, SERIES_FROM), value)
        r = self.log_mean - many.log()
        saddle = -many * (torch.expm1(r) - r) - HALF_LOG_TWO_PI - 0.5 * many.log() - stirling_error(many)
        return torch.where(few, direct, saddle)

    def _sample(self, shape: torch.Size) -> Tensor:
        return torch.poisson(self.mean.expand(shape))


class NegativeBinomialCounts(_CountLaw):
    r"""The negative binomial of mean :math:`\mu` and variance :math:`\mu + \mu^2 / \theta`.

    .. math::
        P(x) = \frac{\Gamma(x + \theta)}{\Gamma(\theta)\, x!} \left(\frac{\theta}{\theta + \mu}\right)^\theta
            \left(\frac{\mu}{\theta + \mu}\right)^x

    a Poisson law whose mean is gamma distributed with shape :math:`\theta`; for large :math:`\theta`, Poisson. It is
    computed from :math:`r = \log \mu - \log x` and Stirling's errors :math:`\delta`, as

    .. math::
        x r - (x + \theta) \log\left(1 + \tfrac{x}{x + \theta} (e^r - 1)\right) - \tfrac{1}{2} \log(1 + x / \theta)
            - \tfrac{1}{2} \log 2 \pi x + \delta(x + \theta) - \delta(\theta) - \delta(x)

    or, where :math:`x > \theta`, with x and :math:`\theta` exchanged in the first two terms, so that no term is larger
    than the smaller of the two. Differences of log-gamma functions would be off by whole nats in float32 from
    :math:`\theta` of about :math:`10^6` on.

    Args:
        log_mean: :math:`\log \mu`, any shape.
        log_inverse_dispersion: :math:`\log \theta`, of a shape that broadcasts with it.

    References:
        C. Loader (2000), *Fast and accurate computation of binomial probabilities* (Stirling's errors).

    >>> p = NegativeBinomialCounts(torch.tensor(2.0).log(), torch.tensor(4.0).log())
    >>> round(p.mean.item(), 5), round(p.variance.item(), 5)
    (2.0, 3.0)
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "log_mean": constraints.real, "log_inverse_dispersion": constraints.real,
    }  # fmt: skip
    log_mean: Tensor
    log_inverse_dispersion: Tensor

    def __init__(self, log_mean: Tensor, log_inverse_dispersion: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, log_mean=log_mean, log_inverse_dispersion=log_inverse_dispersion)

    @property
    def mean(self) -> Tensor:
        r"""Return :math:`\mu`."""
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        r"""Return :math:`\mu + \mu^2 / \theta`."""
        return self.mean + (2 * self.log_mean - self.log_inverse_dispersion).exp()

    def _log_prob(self, value: Tensor) -> Tensor:
        return _negative_binomial(value, self.log_mean, self.log_inverse_dispersion)

    def _sample(self, shape: torch.Size) -> Tensor:
        shape_parameter = self.log_inverse_dispersion.exp().expand(shape)
        standard = torch._standard_gamma(shape_parameter)
        return torch.poisson(standard * (self.log_mean - self.log_inverse_dispersion).exp())


class ZeroInflatedNegativeBinomialCounts(_CountLaw):
    r"""0 with probability :math:`\pi = \sigma(g)`, else a draw of the negative binomial.

    Args:
        log_mean: :math:`\log \mu` of the negative binomial, any shape.
        log_inverse_dispersion: :math:`\log \theta`, of a shape that broadcasts with it.
        gate_logits: g, likewise.

    >>> half = ZeroInflatedNegativeBinomialCounts(torch.tensor(9.0).log(), torch.zeros(()), torch.zeros(()))
    >>> round(half.mean.item(), 5), round(half.log_prob(torch.tensor(0.0)).exp().item(), 5)
    (4.5, 0.55)
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "log_mean": constraints.real, "log_inverse_dispersion": constraints.real, "gate_logits": constraints.real,
    }  # fmt: skip
    log_mean: Tensor
    log_inverse_dispersion: Tensor
    gate_logits: Tensor

    def __init__(
        self, log_mean: Tensor, log_inverse_dispersion: Tensor, gate_logits: Tensor, validate_args: bool | None = None
    ) -> None:
        parameters = {"log_mean": log_mean, "log_inverse_dispersion": log_inverse_dispersion}
        super().__init__(validate_args, **parameters, gate_logits=gate_logits)

    @property
    def mean(self) -> Tensor:
        r"""Return :math:`(1 - \pi) \mu`."""
        return torch.sigmoid(-self.gate_logits) * self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        r"""Return :math:`(1 - \pi) (\mu + \mu^2 / \theta + \pi \mu^2)`."""
        mean = self.log_mean.exp()
        excess = (2 * self.log_mean - self.log_inverse_dispersion).exp()
        gate = torch.sigmoid(self.gate_logits)
        return torch.sigmoid(-self.gate_logits) * (mean + excess + gate * mean.square())

    def _log_prob(self, value: Tensor) -> Tensor:
        inner = logsigmoid(-self.gate_logits) + _negative_binomial(value, self.log_mean, self.log_inverse_dispersion)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate_logits), inner), inner)

    def _sample(self, shape: torch.Size) -> Tensor:
        counts = NegativeBinomialCounts(self.log_mean, self.log_inverse_dispersion, validate_args=False)._sample(shape)
        gate = torch.sigmoid(self.gate_logits).expand(shape)
        return torch.where(torch.rand_like(gate) < gate, torch.zeros_like(counts), counts)


def stirling_error(a: Tensor) -> Tensor:
    r"""Return :math:`\log \Gamma(a) - (a - \frac{1}{2}) \log a + a - \frac{1}{2} \log 2 \pi`, a > 0.

    >>> abs(stirling_error(torch.tensor(1.0)).item() - (1 - 0.5 * math.log(2 * math.pi))) < 1e-6
    True
    """
    small = a < SERIES_FROM
    near = torch.where(small, a, torch.full_like(a, SERIES_FROM))
    direct = torch.lgamma(near) - (near - 0.5) * near.log() + near - HALF_LOG_TWO_PI
    inverse = torch.where(small, torch.full_like(a, SERIES_FROM), a).reciprocal()
    square = inverse.square()
    total = torch.zeros_like(a)
    for coefficient in reversed(SERIES):
        total = total * square + coefficient
    return torch.where(small, direct, total * inverse)


def _negative_binomial(value: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return the log-probability of counts under a negative binomial."""
    theta = log_theta.exp()
    at_zero = -theta * torch.logaddexp(torch.zeros_like(log_mean), log_mean - log_theta)
    zero = value == 0
    x = torch.where(zero, torch.ones_like(value), value)
    r, total = log_mean - x.log(), x + theta
    below = x <= theta
    # The share of the smaller one, which is at most a half.
    share = torch.where(below, x, theta) / total
    slope = torch.where(below, r, -r)
    main = torch.where(below, x * r, -theta * r) - total * _log_mix(share, slope)
    ends = -0.5 * torch.log1p(x / theta) - HALF_LOG_TWO_PI - 0.5 * x.log()
    errors = stirling_error(total) - stirling_error(theta) - stirling_error(x)
    return torch.where(zero, at_zero, main + ends + errors)


def _log_mix(share: Tensor, r: Tensor) -> Tensor:
    """Return log(1 - share + share e^r) for a share of at most a half, exact to relative rounding near r = 0."""
    gentle = torch.log1p(share * torch.expm1(r.clamp(max=STEEP)))
    steep = torch.logaddexp(torch.log1p(-share), share.log() + r)
    return torch.where(r < STEEP, gentle, steep)
