"""Values as a law's own noise makes them, so that they follow the law's parameters."""

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch import distributions as torch_dist
from torch.distributions import TransformedDistribution, constraints

from pyro_vae.programs.laws import unwrapped
from pyro_vae.programs.values import support_of

LOC_SCALE = (
    dist.Normal, dist.Laplace, dist.Cauchy, dist.Gumbel, dist.Logistic, dist.SoftLaplace, torch_dist.Normal,
    torch_dist.Laplace, torch_dist.Cauchy, torch_dist.Gumbel,
)  # fmt: skip
"""Laws of loc + scale * noise, the noise's law without parameters. Exact types: a subclass may be any law."""

STUDENT_T = (dist.StudentT, torch_dist.StudentT)
"""Such laws where the degrees of freedom are no parameters that are learned."""

SCALE = (dist.HalfNormal, dist.HalfCauchy, torch_dist.HalfNormal, torch_dist.HalfCauchy)
"""Laws of scale * noise."""

MULTIVARIATE = (
    dist.MultivariateNormal, dist.LowRankMultivariateNormal, torch_dist.MultivariateNormal,
    torch_dist.LowRankMultivariateNormal,
)  # fmt: skip
"""Laws of loc + scale_tril @ noise."""


def at_own_noise(law: Any, value: Tensor) -> Tensor | None:
    r"""Return a value as the law makes it from the noise that gives it: with the gradient of the law's parameters.

    .. math:: T(\varepsilon; \theta) \text{ at the fixed } \varepsilon = T^{-1}(z; \theta),
        \quad T(\varepsilon; \theta) \sim p_\theta

    T is known of loc-scale families (normal, Laplace, Cauchy, Gumbel, logistic, Student-t of fixed degrees of freedom),
    of half-normal and half-Cauchy laws, of multivariate normals, of any of these on the reals pushed through transforms
    that have an inverse (a log-normal, a flow), and of a law that has a method ``at_own_noise(value)`` itself; whatever
    shapes, expands or masks them.

    Args:
        law: a distribution.
        value: of the law's shape; its own gradient is not followed.

    Returns:
        A tensor that equals ``value`` but for rounding; None where no T of the law is known.

    >>> loc = torch.tensor(1.0, requires_grad=True)
    >>> scale = torch.tensor(2.0, requires_grad=True)
    >>> value = at_own_noise(dist.Normal(loc, scale), torch.tensor(7.0))
    >>> torch.autograd.grad(value, [loc, scale])
    (tensor(1.), tensor(3.))
    """
    law, value = unwrapped(law), value.detach()
    if hasattr(law, "at_own_noise"):
        moved: Tensor | None = law.at_own_noise(value)
        return moved
    if type(law) in LOC_SCALE or (type(law) in STUDENT_T and not law.df.requires_grad):
        return law.loc + law.scale * ((value - law.loc) / law.scale).detach()
    if type(law) in SCALE:
        return law.scale * (value / law.scale).detach()
    if type(law) in MULTIVARIATE:
        scale_tril = law.scale_tril
        centred = (value - law.loc).detach().unsqueeze(-1)
        noise = torch.linalg.solve_triangular(scale_tril.detach(), centred, upper=False)
        return law.loc + (scale_tril @ noise).squeeze(-1)
    if isinstance(law, TransformedDistribution) and type(law).log_prob is TransformedDistribution.log_prob:
        return _transformed(law, value)
    return None


def _transformed(law: TransformedDistribution, value: Tensor) -> Tensor | None:
    # Of a base on a half-line, a transform's parameters could move where the law is.
    if support_of(law.base_dist) not in (constraints.real, constraints.real_vector):
        return None
    below = value
    try:
        with torch.no_grad():
            for transform in reversed(law.transforms):
                below = transform.inv(below)
    except (KeyError, NotImplementedError):
        return None
    moved = at_own_noise(law.base_dist, below)
    if moved is None:
        return None
    for transform in law.transforms:
        moved = transform(moved)
    return moved
