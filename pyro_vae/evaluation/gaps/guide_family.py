"""Which family of laws a guide draws from: read off its trace, or said by the guide or by its distributions."""

from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, TransformedDistribution
from torch.distributions import transforms as maps

from pyro_vae.evaluation.gaps.local_maps import FAMILIES
from pyro_vae.programs.coordinates import onto_support
from pyro_vae.programs.laws import WRAPPERS, layers, unwrapped
from pyro_vae.programs.particles import Particles, Site, samples

LOCATION_SCALE = (
    dist.Normal, dist.Laplace, dist.StudentT, dist.Cauchy, dist.Gumbel, dist.Logistic, dist.SkewLogistic,
    dist.SoftLaplace, dist.AsymmetricLaplace, dist.SoftAsymmetricLaplace, dist.Stable, dist.Uniform,
)  # fmt: skip
"""Laws of one dim that a shift and a stretch turn into any other of their family, but for its shape (as df)."""

FIXED_MAPS = (
    maps.AffineTransform, maps.ExpTransform, maps.SigmoidTransform, maps.TanhTransform, maps.SoftplusTransform,
    maps.PowerTransform,
)  # fmt: skip
"""Maps element by element with nothing to fit: a law pushed through them is as large a family as before."""

STEPS = (-1.5, -0.5, 0.5, 1.5)
"""Where a map is looked at, in scales about a draw: on a straight line, equal steps make equal steps."""


class Family(NamedTuple):
    """What is known of a guide's family."""

    name: str
    """Of the maps on top of q, one of :data:`pyro_vae.evaluation.gaps.local_maps.FAMILIES`."""
    filled: bool
    """Whether q pushed through these maps stays in the guide's own family."""


def family_of(guide: Any, run: Particles, again: Particles) -> Family | None:
    """Return the family of a guide's law of all latent sites together, in unconstrained coordinates; None: unknown.

    Args:
        guide: q(z | x); where it has an attribute ``family``, that is believed.
        run: of one sample of the pair.
        again: another one, on the same data: a law that is not the same there depends on what was drawn before it.
    """
    if (said := _said_by(guide)) is not None:
        return said
    latent = {site["name"]: site for site in samples(run.model_trace) if not site["is_observed"]}
    in_guide, in_guide_again = ({site["name"]: site for site in samples(part.guide_trace)} for part in (run, again))
    if set(in_guide) != set(latent) or any(site["is_observed"] for site in in_guide.values()):
        return None
    families = []
    for name, site in in_guide.items():
        family = _of_site(site, latent[name], run)
        if family is None or not _same_law(site, in_guide_again[name]):
            return None
        families.append(family)
    if all(family.name == "diagonal" for family in families):
        return Family("diagonal", all(family.filled for family in families))
    if len(families) == 1:
        return families[0]
    largest = max(families, key=lambda family: list(FAMILIES).index(family.name))
    # Independent sites: the map lets one depend on the other.
    return Family(largest.name, False)


def is_larger(chosen: str, own: Family | None) -> bool:
    """Whether maps of a family lead out of the guide's own, or nobody can tell."""
    if own is None:
        return True
    order = list(FAMILIES)
    return order.index(chosen) > order.index(own.name) or (chosen == own.name and not own.filled)


def _said_by(part: Any) -> Family | None:
    name = getattr(part, "family", None)
    if not (isinstance(name, str) and name in FAMILIES):
        return None
    return Family(name, bool(getattr(part, "fills_family", True)))


def _same_law(site: Site, again: Site) -> bool:
    """Whether a site has one law in two runs, whose earlier draws differ."""
    # A copy: some laws remember their own draws.
    value = site["value"].clone()
    one, other = site["fn"].log_prob(value), again["fn"].log_prob(value)
    return one.shape == other.shape and torch.allclose(one, other, equal_nan=True)


def _of_site(site: Site, in_model: Site, run: Particles) -> Family | None:
    for law in layers(site["fn"], WRAPPERS):
        if (said := _said_by(law)) is not None:
            return said
    fn = unwrapped(site["fn"])
    onto = onto_support(in_model["fn"])
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal | dist.MultivariateStudentT):
        if not _is_straight(fn.loc, torch.ones_like(fn.loc), [], onto):
            return None
        dim, data = fn.event_shape[0], run.shape[1]
        rank = fn.cov_factor.shape[-1] if isinstance(fn, LowRankMultivariateNormal) else dim
        alone = site["value"].numel() == dim * data
        return Family("full_rank", alone and rank >= dim - 1)
    fixed: list[Any] = []
    if isinstance(fn, TransformedDistribution) and not isinstance(fn, LOCATION_SCALE):
        fixed, fn = _simple(fn.transforms), unwrapped(fn.base_dist)
        if any(not isinstance(part, FIXED_MAPS) for part in fixed):
            return None
    if not isinstance(fn, LOCATION_SCALE):
        return None
    if isinstance(fn, dist.Uniform):
        loc, scale = (fn.low + fn.high) / 2, (fn.high - fn.low) / 4
    else:
        loc, scale = fn.loc, fn.scale
    return Family("diagonal", True) if _is_straight(loc, scale, fixed, onto) else None


def _simple(transforms: list[Any]) -> list[Any]:
    """Return transforms without those that only hold others."""
    found: list[Any] = []
    for part in transforms:
        if isinstance(part, maps.ComposeTransform):
            found += _simple(part.parts)
        elif isinstance(part, maps.IndependentTransform):
            found += _simple([part.base_transform])
        else:
            found.append(part)
    return found


def _is_straight(loc: Tensor, scale: Tensor, fixed: list[Any], onto: Any) -> bool:
    """Whether unconstrained coordinates are a straight line in the draw of a law before its fixed maps."""
    found = []
    for step in STEPS:
        value = (loc + step * scale).double()
        for part in fixed:
            value = part(value)
        found.append(onto.inv(value).double())
    differences = torch.stack(found).diff(dim=0)
    size = differences.abs().amax(0)
    # float32 parameters, and maps that saturate, leave some digits.
    return bool(((differences.diff(dim=0).abs().amax(0) <= 1e-4 * size) & (size > 0)).all())
