"""The KL of each element of a latent site, where guide and model have laws that are products over elements."""

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.programs.laws import kl_at, unwrapped
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.particles import Site


class DependentUnitsError(ValueError):
    """A law is no product over the elements of its site.

    Args:
        of: what has the law, ``q(z | x)`` or ``p(z)``.
        name: of the site.
        law: the law's class.
    """

    def __init__(self, of: str, name: str, law: str) -> None:
        super().__init__(f"{of} is no product over the units of site {name!r} ({law})")
        self.name, self.law = name, law


def kl_of_units(q: Site, p: Site, *, closed: bool = True) -> Tensor:
    """Return the KL of each element at the guide's draw, of the site's shape, 0 where a mask hides the element.

    Args:
        q: the site in the guide's trace.
        p: the same one in the model's.
        closed: take the closed KL where torch has a formula; False takes log q(z) - log p(z) at the draw everywhere.

    Raises:
        DependentUnitsError: a law is no product.
    """
    z, law_q, law_p = q["value"], _law_of_units(q, "q(z | x)"), _law_of_units(p, "p(z)")
    kl = kl_at(law_q, law_p, z) if closed else law_q.log_prob(z) - law_p.log_prob(z)
    mask = element_mask(q)
    return kl if mask is None else torch.where(mask.to(kl.device), kl, torch.zeros_like(kl))


def _law_of_units(site: Site, of: str) -> Any:
    law = unwrapped(site["fn"], (Independent, MaskedDistribution))
    if law.event_dim:
        raise DependentUnitsError(of, site["name"], type(law).__name__)
    return law
