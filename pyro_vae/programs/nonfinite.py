"""Numbers that are not finite, and the site they came from."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.programs.laws import core
from pyro_vae.programs.modules import as_args, local_params
from pyro_vae.programs.particles import Site, log_prob_of
from pyro_vae.programs.values import FilledMask, at_inside, is_inside, seen_elements, support_of
from pyro_vae.protocols import Program


def check_finite(who: str, model: Program, guide: Program, x: Any, weights: Tensor) -> None:
    """Refuse weights ``(num_samples, batch)`` that are NaN or +inf, and name the site they came from.

    A weight of -inf is valid: the model has no mass at that z.
    """
    bad = weights.isnan() | (weights == torch.inf)
    if bad.any():
        which = bad.any(0).nonzero().flatten().tolist()
        raise NonFiniteError(
            f"{who}: a log-weight is NaN or +inf for {len(which)} of {weights.shape[1]} data (first: {which[0]}). "
            f"{nonfinite_site(model, guide, x)}"
        )


def nonfinite_site(model: Program, guide: Program, x: Any) -> str:
    """Run the pair on x and say at which site the first value or log-probability is not finite."""
    return (
        find_nonfinite(model, guide, x)
        or find_outside(model, guide, x)
        or "A second run with fresh noise gave finite values at every site."
    )


def find_nonfinite(model: Program, guide: Program, x: Any) -> str | None:
    """Run the pair on x and say at which site the first value or log-probability is not finite, if any is.

    NaN is looked for first, since a log-probability of -inf can be valid. What a mask hides is ignored.
    """
    sites = _sites(model, guide, x)
    for is_bad in (torch.isnan, torch.isinf):
        for site, where in sites:
            if _has(is_bad, site):
                return f"The first value that is not finite is at site {site['name']!r} of the {where}."
            if is_bad(_log_prob(site)).any():
                return f"The first log-probability that is not finite is at site {site['name']!r} of the {where}."
    return None


def find_missing(model: Program | None, guide: Program | None, x: Any) -> str | None:
    """Run what is given of a pair on x and say which site a NaN or an infinite value of x reaches.

    Returns:
        None where none does; a sentence where masks hide some values, and not these; else nothing, "".
    """
    sites = _sites(model, guide, x)
    masked = any(site["is_observed"] and seen_elements(site["fn"], site["mask"]) is not None for site, _ in sites)
    for site, where in sites:
        if _has(lambda value: ~value.isfinite(), site) or _log_prob(site).isnan().any():
            return f" They are not all hidden, and reach site {site['name']!r} of the {where}." if masked else ""
    return None


def find_outside(model: Program, guide: Program, x: Any) -> str | None:
    """Run the pair on x and say which latent site the guide gives values outside its support, if it does."""
    for site, where in _sites(model, guide, x):
        if (
            where == "model"
            and not site["is_observed"]
            and not is_inside(site["fn"], site["value"], site["mask"]).all()
        ):
            fn = core(site["fn"])
            return (
                f"The guide draws values of site {site['name']!r} outside the support of the model's "
                f"{type(fn).__name__}, {support_of(fn)}: there p(z) = 0, the weight is 0 and the loss infinite. Give "
                f"the guide a law with that support."
            )
    return None


def _sites(model: Program | None, guide: Program | None, x: Any) -> list[tuple[Site, str]]:
    """Run what is given of a pair, and return its sites with the name of the program that each is in."""
    traces = []
    with torch.no_grad(), pyro.validation_enabled(False), local_params(model, guide), FilledMask():
        if guide is not None:
            traces.append(("guide", poutine.trace(guide).get_trace(*as_args(x))))
        if model is not None:
            replayed = poutine.replay(model, trace=traces[0][1]) if traces else model
            traces.append(("model", poutine.trace(replayed).get_trace(*as_args(x))))
    return [
        (site, where)
        for where, trace in traces
        for site in prune_subsample_sites(trace).nodes.values()
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    ]


def _has(is_bad: Callable[[Tensor], Tensor], site: Site) -> bool:
    """Whether a site's value has a bad element that counts."""
    if not isinstance(site["value"], Tensor):
        return False
    bad, seen = is_bad(site["value"]), seen_elements(site["fn"], site["mask"])
    return bool((bad if seen is None else bad & seen).any())


def _log_prob(site: Site) -> Tensor:
    """Return the masked log-probability of a site, 0 at a latent value of density 0, which is valid."""
    if not site["is_observed"] and isinstance(site["value"], Tensor):
        inside = is_inside(site["fn"], site["value"], site["mask"])
        if not inside.all():
            site = {**site, "value": at_inside(site["fn"], site["value"], inside)}
    return scale_and_mask(log_prob_of(site), mask=site["mask"])
