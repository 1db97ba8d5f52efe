"""The support of what the model observes: whether the data lie in it, and whether it is discrete."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import SupportError
from pyro_vae.programs.laws import core, elementwise, layers
from pyro_vae.programs.modules import as_args, local_params, num_rows, plain_errors, some_rows
from pyro_vae.programs.undo import probing
from pyro_vae.programs.values import seen_elements, support_of
from pyro_vae.protocols import Program
from pyro_vae.runtime.arguments import Reader, reader

ROUNDING = 1e-6
"""How far above 1 or below 0 grey pixels in single precision come by rounding."""

BLOCK = 1000
"""Data checked at a time."""

REMEDIES: dict[Reader, tuple[str, str, str]] = {
    "flags": ("--binarization stochastic", "--likelihood.soft_targets", "--likelihood gaussian"),
    "settings": ("binarization: stochastic", "likelihood: bernoulli(soft_targets=True)", "likelihood: gaussian"),
    "python": (
        "load_data(..., binarization='stochastic')",
        "BernoulliLikelihood(..., soft_targets=True)",
        "GaussianLikelihood(...)",
    ),
}
"""How binarization, soft targets and a likelihood of real values are asked for."""


def check_support(model: Program, x: Any, sample: Any) -> None:
    """Check all of x against the support of the site that observes it.

    The site is found by running the model on ``sample``; a model that observes something made of x is left to
    Pyro's own validation.

    Args:
        model: p(x, z).
        x: model inputs ``(N, ...)``, or a tuple of all positional arguments.
        sample: a few of them.

    Raises:
        SupportError: names the site, its support, and the values outside it.
    """
    for name, site in _observed(model, as_args(sample)):
        support = elementwise(site["fn"].support)
        for whole, part in zip(as_args(x), as_args(sample), strict=True):
            if not isinstance(part, Tensor) or not _is_input(site["value"], part, reshaped=support.event_dim == 0):
                continue
            for start in range(0, len(whole), BLOCK):
                block = whole[start : start + BLOCK]
                inside = support.check(block)
                if not inside.all() and seen_elements(site["fn"], site["mask"]) is not None:
                    rows = some_rows(as_args(x), slice(start, start + BLOCK), num_rows(whole))
                    inside = inside | _hidden(model, name, rows).reshape(inside.shape)
                if not inside.all():
                    raise SupportError(_message(name, site["fn"], support, block, inside))


def check_observed(model: Program, args: tuple[Any, ...]) -> None:
    """Check what each site of a model observes, made of the data or not, against its support.

    NaN, and what a mask hides, is not looked at.

    Args:
        model: p(x, z).
        args: its positional arguments.

    Raises:
        SupportError: names the site, its support, and the values outside it.
    """
    for name, site in _observed(model, args):
        support, value = elementwise(site["fn"].support), site["value"]
        inside = support.check(value)
        known = value.isfinite() if value.is_floating_point() else torch.ones_like(value, dtype=torch.bool)
        seen = seen_elements(site["fn"], site["mask"])
        known = known if seen is None else known & seen
        for _ in range(support.event_dim):
            known = known.all(-1)
        if not (inside | ~known).all():
            raise SupportError(_message(name, site["fn"], support, value, inside | ~known))


def _observed(model: Program, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the site of each observation whose support does not depend on z."""
    for name, site in _run(model, args).nodes.items():
        # Bounds that follow z, here a draw of the prior's, say nothing about x.
        seen = site["type"] == "sample" and site["is_observed"]
        if seen and not _depends_on_parameters(site["fn"]) and support_of(site["fn"]) is not None:
            yield name, site


def _run(model: Program, args: tuple[Any, ...]) -> poutine.Trace:
    with probing(model), local_params(model), plain_errors("", "the model"):
        return poutine.trace(model).get_trace(*args)


def discrete_dims(sites: Iterable[Any], rows: int) -> int | None:
    """Return how many elements a datum has, where each is observed on a grid of more than two values; else None.

    Bits per dimension are quoted for such data. Of a density they would depend on the units of x, and of binary
    pixels nats are quoted. Where a mask hides elements, data differ in their number.

    Args:
        sites: the observed sites of a trace.
        rows: the data they hold.
    """
    total = 0
    for site in sites:
        fn = core(site["fn"])
        masked = site["mask"] is not None or any(isinstance(law, MaskedDistribution) for law in layers(site["fn"]))
        try:
            support = elementwise(fn.support)
        except NotImplementedError:
            return None
        if masked or not support.is_discrete or support.event_dim > 0 or support is constraints.boolean:
            return None
        total += site["value"].numel()
    return total // rows


def _is_input(value: Any, sample: Tensor, reshaped: bool) -> bool:
    if not isinstance(value, Tensor) or value.numel() != sample.numel():
        return False
    if value.shape != sample.shape and not reshaped:
        return False
    value = value.reshape(sample.shape).to(sample.dtype)
    return bool(((value == sample) | (value.isnan() & sample.isnan())).all())


def _hidden(model: Program, name: str, args: tuple[Any, ...]) -> Tensor:
    """Return which elements of these data a mask hides, as many as they are; an event is hidden as a whole."""
    site = _run(model, args).nodes[name]
    seen, event_dim = seen_elements(site["fn"], site["mask"]), support_of(site["fn"]).event_dim
    hidden = torch.zeros_like(site["value"], dtype=torch.bool) if seen is None else (~seen).expand(site["value"].shape)
    return hidden.all(tuple(range(-event_dim, 0))) if event_dim else hidden


def _depends_on_parameters(fn: Any) -> bool:
    return isinstance(getattr(type(core(fn)), "support", None), constraints.dependent_property)


def _message(name: str, fn: Any, support: Any, block: Tensor, inside: Tensor) -> str:
    """Say which values are outside, and what to do: as the support says that has a method ``advice(outside)``."""
    while inside.ndim < block.ndim:
        inside = inside.unsqueeze(-1)
    outside, law = block[~inside.expand(block.shape)], type(core(fn)).__name__
    text = (
        f"site {name!r}: {law} has support {support}, and {outside.numel()} of {block.numel()} values "
        f"in the first data that were checked lie outside it (from {outside.min():.3g} to {outside.max():.3g})."
    )
    advice = getattr(support, "advice", None)
    if advice is not None:
        return f"{text} {advice(outside)}"
    binarization, soft_targets, real_values = REMEDIES[reader()]
    low, high = outside.min().item(), outside.max().item()
    # A sum or a quotient of pixels may be above 1 by a rounding.
    if support is constraints.boolean and low >= -ROUNDING and high <= 1 + ROUNDING:
        return (
            f"{text} These look like grey pixels: binarize them "
            f"({binarization}), or ask for soft targets by name ({soft_targets}), whose nats "
            f"are not a log-likelihood."
        )
    if (support is constraints.boolean or isinstance(support, constraints.interval)) and low < -ROUNDING:
        return (
            f"{text} Choose a likelihood of real values ({real_values}), or give the "
            f"data as they were before they were standardised."
        )
    return f"{text} Rescale the data or choose a likelihood that covers them."
