"""Numbers that are not finite, and the site they came from."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.programs import as_args, local_params
from pyro_vae.protocols import Program


def check_finite(who: str, model: Program, guide: Program, x: Any, weights: Tensor) -> None:
    """Refuse weights ``(num_samples, batch)`` that are NaN or +inf, and name the site they came from.

    A weight of -inf is a fair one: a z where the model has no mass.
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
    return find_nonfinite(model, guide, x) or "A second run with fresh noise gave finite values at every site."


def find_nonfinite(model: Program, guide: Program, x: Any) -> str | None:
    """Run the pair on x and say at which site the first value or log-probability is not finite, if any is.

    NaN goes before infinity: a log-probability of -inf can be a fair one.
    """
    with torch.no_grad(), pyro.validation_enabled(False), local_params(model, guide):
        guide_trace = poutine.trace(guide).get_trace(*as_args(x))
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*as_args(x))
    sites = [
        (site, where)
        for where, trace in (("guide", guide_trace), ("model", model_trace))
        for site in prune_subsample_sites(trace).nodes.values()
        if site["type"] == "sample"
    ]
    for is_bad in (torch.isnan, torch.isinf):
        for site, where in sites:
            if isinstance(site["value"], Tensor) and is_bad(site["value"]).any():
                return f"The first value that is not finite is at site {site['name']!r} of the {where}."
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            if is_bad(scale_and_mask(log_prob, mask=site["mask"])).any():
                return f"The first log-probability that is not finite is at site {site['name']!r} of the {where}."
    return None
