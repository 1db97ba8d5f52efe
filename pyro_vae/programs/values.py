"""Values of sample sites: which lie in the support, which a mask hides, and what takes the place of the others."""

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint

from pyro_vae.programs.laws import WRAPPERS, Kinds, elementwise, layers, unwrapped

OBSERVED_VALUE = "pyro_vae_observed_value"
"""Where, in a site's ``infer``, :class:`FilledMask` keeps what the program observed."""


class FilledMask(Messenger):
    """Fills masked elements of observed sites that are NaN, huge or outside the support with a harmless value.

    A mask makes their log-probability 0; the gradient would still be 0 times NaN, and validation looks at them. Put it
    around the whole program, so that it sees the whole mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masked = False
        """Whether an observed site had a mask."""

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor) or msg["infer"].get("_deterministic"):
            return
        seen = seen_elements(msg["fn"], msg["mask"])
        support = support_of(msg["fn"])
        if seen is None or support is None or value.numel() == 0:
            return
        self.masked = True
        filler = harmless(support, value)
        if filler is not None:
            msg["infer"][OBSERVED_VALUE] = value
            usable = elements_inside(support, value)
            if value.is_floating_point():
                # Squares and products of larger ones overflow.
                usable = usable & (value.abs() < torch.finfo(value.dtype).max ** 0.25)
            msg["value"] = torch.where(seen | usable, value, filler)


class InsideSupport(Messenger):
    """Gives a program, run to learn its structure, no latent value outside the support of its site."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] and not msg["is_observed"] and isinstance(msg["fn"], Distribution):
            inside = is_inside(msg["fn"], msg["value"], msg["mask"])
            if not inside.all():
                msg["value"] = at_inside(msg["fn"], msg["value"], inside)


class OutsideIsNaN(Messenger):
    """Makes latent values outside the support of the model's site NaN, and with them the loss, which is infinite.

    Without validation, which is off in a training step, some laws give values outside their support a density.

    Args:
        names: of the sites that may be given such values.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names and msg["done"] and not msg["is_observed"] and msg["value"].is_floating_point():
            inside = spread(is_inside(msg["fn"], msg["value"], msg["mask"]), msg["fn"].event_dim)
            msg["value"] = torch.where(inside, msg["value"], torch.nan)


def observed_value(site: Any) -> Tensor:
    """Return what a program observed at a site, where a mask's elements may have been filled since."""
    return site["infer"].get(OBSERVED_VALUE, site["value"])


def support_of(fn: Any) -> Any:
    """Return the support of a law, element by element where it has one of elements, or None where it names none."""
    try:
        support = unwrapped(fn).support
    except (AttributeError, NotImplementedError):
        return None
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    return elementwise(support)


def seen_elements(fn: Any, mask: Any, within: Kinds = WRAPPERS) -> Tensor | None:
    """Return which elements of a site's value count, of a shape that goes with the value's; None where all do.

    Args:
        fn: the site's law, which may have a mask of its own.
        mask: the site's mask.
        within: laws that are searched for a mask of the law within them.
    """
    masks = [(mask, fn.event_dim)]
    masks += [(law._mask, law.event_dim) for law in layers(fn, within) if isinstance(law, MaskedDistribution)]
    seen = [spread(torch.as_tensor(m).bool(), event_dim) for m, event_dim in masks if m is not None and m is not True]
    return torch.stack(torch.broadcast_tensors(*seen)).all(0) if seen else None


def elements_inside(support: Any, value: Tensor) -> Tensor:
    """Return which elements are finite and inside a support, of a shape that goes with the value's."""
    return value.isfinite() & spread(support.check(value), support.event_dim)


def is_inside(fn: Any, value: Tensor, mask: Any = None) -> Tensor:
    """Return which values of a batch lie in the law's support, ``(*batch)``; what a mask hides is not looked at.

    A NaN counts as inside, since it says nothing about the support.
    """
    support, event_dims = support_of(fn), tuple(range(-fn.event_dim, 0))
    if support is None:
        inside = torch.ones_like(value, dtype=torch.bool)
    else:
        inside = spread(support.check(value), support.event_dim) | value.isnan()
        seen = seen_elements(fn, mask)
        inside = inside if seen is None else inside | ~seen
        # A mask may have more rows than a value that they share.
        inside = inside.expand(torch.broadcast_shapes(inside.shape, value.shape))
    return inside.all(event_dims) if event_dims else inside


def at_inside(fn: Any, value: Tensor, inside: Tensor) -> Tensor:
    """Return the values, with a harmless one in the place of each that is not inside."""
    support = support_of(fn)
    filler = None if support is None else harmless(support, value)
    return value if filler is None else torch.where(spread(inside, fn.event_dim), value, filler)


def may_leave(fn: Any, other: Any) -> bool:
    """Whether a draw of ``other`` may lie outside the support of ``fn``, as far as their supports say."""
    support, drawn = support_of(fn), support_of(other)
    return support not in (None, constraints.real) and not same_support(support, drawn)


def same_support(support: Any, other: Any) -> bool:
    """Whether two supports of single elements are the same, but for the end of a half-line."""
    half_lines = (constraints.greater_than, constraints.greater_than_eq)
    if type(support) is not type(other) and not (isinstance(support, half_lines) and isinstance(other, half_lines)):
        return False
    return all(_equal(value, vars(other).get(name)) for name, value in vars(support).items())


def harmless(support: Any, value: Tensor) -> Tensor | None:
    """Return something of a value's shape inside a support, with no gradient, or None where none is known."""
    with torch.no_grad():
        if support.is_discrete:
            filler = torch.zeros_like(value)
            if support.event_dim == 0:
                return filler + torch.as_tensor(getattr(support, "lower_bound", 0), dtype=value.dtype)
            # One-hot, or counts that add up: all in the first element.
            filler[..., 0] = torch.as_tensor(getattr(support, "upper_bound", 1), dtype=value.dtype)
            return filler
        try:
            transform = biject_to(support)
            return transform(value.new_zeros(transform.inverse_shape(value.shape))).to(value.dtype)
        except (NotImplementedError, ValueError, RuntimeError):
            return None


def spread(values: Tensor, event_dim: int) -> Tensor:
    """Append dims of size 1, so that a value of each event broadcasts over its elements."""
    return values.reshape(values.shape + (1,) * event_dim)


def _equal(bound: Any, other: Any) -> bool:
    """Whether bounds of supports, numbers or tensors, are equal where they meet; anything else is compared as it is."""
    if not isinstance(bound, Tensor | int | float) or not isinstance(other, Tensor | int | float):
        return bool(bound == other)
    return bool((torch.as_tensor(bound).double().cpu() == torch.as_tensor(other).double().cpu()).all())
