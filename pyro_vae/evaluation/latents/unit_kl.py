"""The KL of each latent unit, where the laws of posterior and prior are products over units."""

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.latent_draws import by_datum
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import Particles, Site
from pyro_vae.programs.unit_kl import DependentUnitsError, kl_of_units


class UnitKLError(ValueError):
    """Units have no KL of their own; the message says why."""


def unit_kl(pair: Pair, run: Particles, names: list[str]) -> Tensor:
    r"""Return each unit's part of the rate at each draw, ``(num_samples, batch, units)``.

    .. math:: \mathrm{KL}(q \| p) = \sum_s E_q\big[\log q(z_s | z_{<s}, x) - \log p(z_s | z_{\prec s})\big]
        = \sum_s \sum_i E_q[r_{s,i}]

    The guide samples site s given the sites before it in the guide's order, and the model given those before it in
    the model's order. Both laws are products over units i, so that each difference is a sum over units.

    Where the guide's earlier draws fix the model's law at s, a unit's part is
    :math:`\mathrm{KL}(q_{s,i} \| p_{s,i})` given these draws: closed where torch has a formula, else the log-ratio at
    the draw. Where that law depends on a site that the guide samples later (:attr:`Pair.follows_later`), the part is
    always the log-ratio at the draw. Its mean is then no divergence and may be negative. The sum over all units is
    KL(q || p) in both cases.

    Args:
        pair: the pair.
        run: of it.
        names: the latent sites, in the guide's order.

    Raises:
        UnitKLError: the guide has auxiliary sites or a factor, or a law is no product over units.
    """
    auxiliary = [site["name"] for site in run.latents if site["name"] not in names]
    if auxiliary or run.guide_factors() is not None:
        raise UnitKLError("the guide has sites of its own, over which q(z | x) is an integral")
    parts = []
    for name in names:
        site = run.guide_trace.nodes[name]
        try:
            part = kl_of_units(site, run.model_trace.nodes[name], closed=name not in pair.follows_later)
        except DependentUnitsError as error:
            raise UnitKLError(str(error)) from None
        parts.append(by_unit(run, site, part))
    return torch.cat(parts, -1)


def by_unit(run: Particles, site: Site, value: Tensor) -> Tensor:
    """Return something of a site's elements as ``(num_samples, batch, units)``."""
    value = by_datum(run, site, value)
    return value.reshape(*value.shape[:2], -1)
