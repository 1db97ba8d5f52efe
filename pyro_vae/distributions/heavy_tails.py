"""Student's t, exact in float32 for any number of degrees of freedom."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.counts import stirling_error

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

FAR = 1e8
"""From where on log(1 + y^2) is 2 log y to rounding of a float64, while y^2 is finite in float32."""


class StudentT(TorchDistribution):
    r"""Student's t with :math:`\nu` degrees of freedom, location :math:`\mu` and scale :math:`\sigma`.

    The normaliser is computed from Stirling's errors :math:`\delta`,

    .. math:: \log \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2)} - \frac{1}{2} \log \frac{\nu}{2}
        = \frac{\nu}{2} \log\left(1 + \frac{1}{\nu}\right) - \frac{1}{2}
        + \delta\left(\frac{\nu + 1}{2}\right) - \delta\left(\frac{\nu}{2}\right).

    A difference of log-gamma functions, as torch's, is off by 0.25 nats in float32 at :math:`\nu = 10^6`.

    Args:
        df: :math:`\nu`, positive, any shape.
        loc: :math:`\mu`, of a shape that broadcasts with it.
        scale: :math:`\sigma`, positive, likewise.

    >>> p = StudentT(torch.tensor(1e6), torch.zeros(()), torch.ones(()))
    >>> round(p.log_prob(torch.tensor(0.0)).item(), 4)
    -0.9189
    """

    arg_constraints = {  # noqa: RUF012 (torch's protocol)
        "df": constraints.positive, "loc": constraints.real, "scale": constraints.positive,
    }  # fmt: skip
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = df, loc, scale
        super().__init__(torch.broadcast_shapes(df.shape, loc.shape, scale.shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StudentT":
        """Return a view with another batch shape."""
        df, loc, scale = (parameter.expand(batch_shape) for parameter in (self.df, self.loc, self.scale))
        return StudentT(df, loc, scale, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each element."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 * self.df
        ratio = half * torch.log1p(self.df.reciprocal()) - 0.5 + stirling_error(half + 0.5) - stirling_error(half)
        standardized = (value - self.loc) / self.scale
        # log(1 + y^2 / df), where the square of a large y would overflow.
        root = (standardized / self.df.sqrt()).abs()
        far = root > FAR
        near = torch.log1p(torch.where(far, torch.ones_like(root), root).square())
        tail = torch.where(far, 2 * torch.where(far, root, torch.ones_like(root)).log(), near)
        return ratio - HALF_LOG_TWO_PI - self.scale.log() - (half + 0.5) * tail

    @property
    def mean(self) -> Tensor:
        """Return the location, or NaN where there is no mean, for one degree of freedom or less."""
        return torch.where(self.df > 1, self.loc, torch.nan).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        r"""Return :math:`\sigma^2 \nu / (\nu - 2)`; inf for :math:`1 < \nu \le 2`, and NaN below."""
        finite = self.scale.square() * self.df / (self.df - 2).clamp(min=torch.finfo(self.df.dtype).tiny)
        infinite = torch.where(self.df > 1, torch.inf, torch.nan)
        return torch.where(self.df > 2, finite, infinite).expand(self.batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Sample a normal over the root of a gamma variable."""
        shape = self._extended_shape(torch.Size(sample_shape))
        half = (0.5 * self.df).expand(shape)
        gamma = torch._standard_gamma(half) / half
        return self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device) * gamma.rsqrt()
