"""Which family of laws a guide draws from: read off its trace, or named by the guide or by its distributions."""

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
    if (declared := _declared(guide)) is not None:
        return declared
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
    largest = max((family.name for family in families), key=_size)
    # A map of several sites lets one depend on the other, unless it works on each coordinate by itself.
    keeps_independence = len(families) == 1 or largest == "diagonal"
    return Family(largest, keeps_independence and all(family.filled for family in families))


def is_larger(chosen: str, of_guide: Family | None) -> bool:
    """Whether maps of a family lead out of the guide's own family, or that is not known.

    Args:
        chosen: the maps' family.
        of_guide: the guide's.
    """
    if of_guide is None:
        return True
    return _size(chosen) > _size(of_guide.name) or (chosen == of_guide.name and not of_guide.filled)


def _size(family: str) -> int:
    """Return a family's place among all, from the smallest on."""
    return list(FAMILIES).index(family)


def _declared(part: Any) -> Family | None:
    """Return the family that a guide or a distribution names itself, if it does."""
    name = getattr(part, "family", None)
    if not (isinstance(name, str) and name in FAMILIES):
        return None
    return Family(name, bool(getattr(part, "fills_family", True)))


def _same_law(site: Site, again: Site) -> bool:
    """Whether a site has one law in two runs, whose earlier draws differ."""
    # A copy: some laws remember their own draws.
    value = site["value"].clone()
    log_prob, other = site["fn"].log_prob(value), again["fn"].log_prob(value)
    return log_prob.shape == other.shape and torch.allclose(log_prob, other, equal_nan=True)


def _of_site(site: Site, in_model: Site, run: Particles) -> Family | None:
    """Return the family of a site's law in the guide, in the model's unconstrained coordinates; None: unknown."""
    for law in layers(site["fn"], WRAPPERS):
        if (declared := _declared(law)) is not None:
            return declared
    fn = unwrapped(site["fn"])
    onto = onto_support(in_model["fn"])
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal | dist.MultivariateStudentT):
        if not _is_straight(fn.loc, torch.ones_like(fn.loc), [], onto):
            return None
        dim, data = fn.event_shape[0], run.shape[1]
        rank = fn.cov_factor.shape[-1] if isinstance(fn, LowRankMultivariateNormal) else dim
        alone = site["value"].numel() == dim * data
        return Family("full_rank", alone and rank >= dim - 1)
    fixed_maps: list[Any] = []
    if isinstance(fn, TransformedDistribution) and not isinstance(fn, LOCATION_SCALE):
        fixed_maps, fn = _flattened(fn.transforms), unwrapped(fn.base_dist)
    if not isinstance(fn, LOCATION_SCALE) or not all(isinstance(part, FIXED_MAPS) for part in fixed_maps):
        return None
    loc, scale = (fn.mean, fn.stddev) if isinstance(fn, dist.Uniform) else (fn.loc, fn.scale)
    return Family("diagonal", True) if _is_straight(loc, scale, fixed_maps, onto) else None


def _flattened(transforms: list[Any]) -> list[Any]:
    """Return transforms, with those that only hold others replaced by what they hold."""
    flat: list[Any] = []
    for part in transforms:
        if isinstance(part, maps.ComposeTransform):
            flat += _flattened(part.parts)
        elif isinstance(part, maps.IndependentTransform):
            flat += _flattened([part.base_transform])
        else:
            flat.append(part)
    return flat


def _is_straight(loc: Tensor, scale: Tensor, fixed_maps: list[Any], onto: Any) -> bool:
    """Whether unconstrained coordinates are a straight line in the draw of a law before its fixed maps."""
    points = []
    for step in STEPS:
        value = (loc + step * scale).double()
        for part in fixed_maps:
            value = part(value)
        points.append(onto.inv(value).double())
    differences = torch.stack(points).diff(dim=0)
    size = differences.abs().amax(0)
    # float32 parameters, and maps that saturate, leave some digits.
    return bool(((differences.diff(dim=0).abs().amax(0) <= 1e-4 * size) & (size > 0)).all())
