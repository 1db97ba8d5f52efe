"""The KL of each latent unit, where posterior and prior are products over units."""

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.evaluation.over_data.latent_draws import by_datum
from pyro_vae.programs.laws import kl_at, unwrapped
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import Particles, Site


class UnitKLError(ValueError):
    """Units have no KL of their own; the message says why."""


def unit_kl(pair: Pair, run: Particles, names: list[str]) -> Tensor:
    r"""Return the KL of each unit, or its log-ratio at each draw, ``(num_samples, batch, units)``.

    .. math:: \mathrm{KL}(q \| p) = \sum_i \mathrm{KL}(q_i \| p_i), \quad q = \prod_i q_i, \; p = \prod_i p_i

    Closed where torch has a formula, else the log-ratio at the draw. Of several sites, each is conditional on those
    before it (the chain rule).

    Args:
        pair: the pair.
        run: of it.
        names: the latent sites, in the guide's order.

    Raises:
        UnitKLError: the guide has sites of its own, samples in another order than the model, or a law is no product.
    """
    own = [site["name"] for site in run.latents if site["name"] not in names]
    if own or run.guide_factors() is not None:
        raise UnitKLError("the guide has sites of its own, over which q(z | x) is an integral")
    if not pair.same_order:
        raise UnitKLError("model and guide sample their latent sites in different orders")
    found = []
    for name in names:
        q, p = run.guide_trace.nodes[name], run.model_trace.nodes[name]
        kl = kl_at(_of_one_unit(q, "q(z | x)"), _of_one_unit(p, "p(z)"), q["value"])
        mask = element_mask(q)
        if mask is not None:
            kl = torch.where(mask.to(kl.device), kl, torch.zeros_like(kl))
        kl = by_datum(run, q, kl)
        found.append(kl.reshape(*kl.shape[:2], -1))
    return torch.cat(found, -1)


def _of_one_unit(site: Site, what: str) -> Any:
    """Return the site's law of one unit."""
    fn = unwrapped(site["fn"], (Independent, MaskedDistribution))
    if fn.event_dim:
        raise UnitKLError(f"{what} is no product over the units of site {site['name']!r} ({type(fn).__name__})")
    return fn
