"""A law without the laws that wrap it, and a support without the dims that make it one of events."""

from collections.abc import Iterator
from typing import Any

from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints, kl_divergence

Kinds = type | tuple[type, ...]

WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
"""Laws whose values are those of their ``base_dist``: they only make events, mask or expand."""


def layers(fn: Any, within: Kinds = object) -> Iterator[Any]:
    """Yield a law and, one after the other, those within it.

    Args:
        fn: the law.
        within: laws that are looked into; by default all, also transformed ones.
    """
    yield fn
    while isinstance(fn, within) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
        yield fn


def core(fn: Any) -> Any:
    """Return the innermost law, whatever wraps or transforms it."""
    *_, innermost = layers(fn)
    return innermost


def unwrapped(fn: Any, wrappers: Kinds = WRAPPERS) -> Any:
    """Return the law within what only makes events, masks or expands: of the same values.

    Args:
        fn: the law.
        wrappers: laws that are taken off.

    >>> import torch
    >>> from pyro import distributions as dist
    >>> unwrapped(dist.Normal(torch.zeros(3, 2), 1.0).to_event(1).mask(False))
    Normal(loc: torch.Size([3, 2]), scale: torch.Size([3, 2]))
    """
    *_, law = layers(fn, wrappers)
    return law


def elementwise(support: Any) -> Any:
    """Return a support of single elements, where one of events only repeats it."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def kl_at(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """Return KL(q || p) in closed form, or log q(z) - log p(z) where torch has no formula."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)
