"""The one-layer guides of which a guide of several stochastic layers is made."""

from collections.abc import Sequence
from typing import Any

from pyro_vae.parts import make_part
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.checks import in_short


def layer_families(who: str, layers: Any, count: int) -> tuple[Any, ...]:
    """Return the guide of each layer, nearest to x first, as the user gave it: a text or an object.

    Args:
        who: the caller, for messages.
        layers: one text, or a sequence of one for all layers or of one for each.
        count: the number of layers.

    Raises:
        ValueError: it is neither, or of another length.
    """
    given = (layers,) if isinstance(layers, str) else layers
    if not isinstance(given, Sequence) or len(given) not in (1, count):
        got = len(given) if isinstance(given, Sequence) else in_short(given)
        raise ValueError(
            f"{who}: layers must be a tuple of one guide for all of z1 to z{count}, or of one for each; got {got}."
        )
    return tuple(given) if len(given) == count else tuple(given) * count


def layer_guide(who: str, layer: Any, **sizes: Any) -> Any:
    """Return the guide of a layer, made with these sizes if it is a text.

    Raises:
        ValueError: there is no guide of that name, or it has no ``posterior``.
    """
    guide = make_part("guide", layer, **sizes) if isinstance(layer, str) else layer
    if not isinstance(guide, PosteriorGuide):
        raise ValueError(
            f"{who}: the guide of a layer must have posterior(x); {type(guide).__name__} has none. MeanFieldGuide has "
            f"it, for one."
        )
    return guide
