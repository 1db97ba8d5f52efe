"""Data drawn from a model: what it observes is drawn anew, what it computes or adds as a factor is not."""

from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger

from pyro_vae.programs.laws import core
from pyro_vae.programs.particles import Site, samples


class Redrawn(Messenger):
    """Draws each observed sample site from its law. ``pyro.deterministic`` and ``pyro.factor`` stay as they are."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic") and not is_factor(msg):
            msg["is_observed"], msg["done"], msg["value"] = False, False, None


def is_factor(site: Site) -> bool:
    """Whether a site is a ``pyro.factor``."""
    return isinstance(core(site["fn"]), Unit)


def refuse_factors(who: str, trace: Trace) -> None:
    """Refuse factors that change the law of what the model draws: draws of its sample sites do not follow it.

    A factor that is the same for all draws and data changes no law.

    Raises:
        ValueError: names the factor.
    """
    for site in samples(trace):
        if is_factor(site):
            value = site["fn"].log_prob(site["value"])
            if not torch.equal(value, value.flatten()[:1].expand(value.shape)):
                raise ValueError(
                    f"{who}: no data can be drawn from this model: pyro.factor {site['name']!r} weighs what its sample "
                    f"sites draw. Leave it out: poutine.block(model, hide=[{site['name']!r}])."
                )
