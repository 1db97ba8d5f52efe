"""The mean of q(z | x) for each datum: read off the guide where a law offers one, else sampled."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ProjectedNormal
from torch import Tensor
from torch.distributions import VonMises

from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.programs.coordinates import innermost
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.modules import check_arguments, local_params, plain_errors
from pyro_vae.programs.particles import Site, samples
from pyro_vae.programs.sites import PLATE
from pyro_vae.protocols import PosteriorGuide, Program
from pyro_vae.runtime.checks import check_count

BLOCK = 1000
"""Data a guide call."""

ON_THE_CIRCLE = (VonMises, ProjectedNormal)
"""Laws whose ``mean`` is a direction and no expectation."""


@dataclass(frozen=True, eq=False)
class PosteriorMeans:
    """What :func:`posterior_means` returns, float64, on the CPU."""

    mean: Tensor
    """E_q[z | x], ``(N, units)``."""
    noise: Tensor
    """Monte Carlo variance of that estimate, ``(N, units)``; 0 where it is exact."""
    units: tuple[str, ...]
    """What each unit is called, as ``z[0]``."""
    num_samples: int
    """Samples for each datum, of which the sampled means are made."""
    there: Tensor | None = None
    """Which units of which data are not masked, ``(N, units)``; None where none is masked."""

    def counted(self) -> Tensor:
        """Return how many data a unit's variance is over, ``(units,)``, float64."""
        size = self.mean.new_full((self.mean.shape[1],), len(self.mean))
        return size if self.there is None else self.there.double().sum(0)

    def over_data(self, values: Tensor) -> Tensor:
        """Return the mean over data of values ``(N, units)``, without what is masked."""
        if self.there is None:
            return values.mean(0)
        return torch.where(self.there, values, torch.zeros_like(values)).sum(0) / self.counted()

    def spread(self) -> Tensor:
        """Return the variance over data of the means as they are, ``(units,)``; NaN of one datum."""
        size = self.counted()
        return self.over_data((self.mean - self.over_data(self.mean)).square()) * size / (size - 1)

    def variance_over_data(self) -> Tensor:
        """Return Var_x(E_q[z | x]) ``(units,)``, less what the noise adds to it: unbiased, so below 0 at times."""
        return self.spread() - self.over_data(self.noise)


def posterior_means(
    who: str, guide: Program, x: Any, site: str | None, num_samples: int, *, plate: str | None = None
) -> PosteriorMeans:
    """Return E_q[z | x] of each datum.

    Where the guide offers ``posterior(x)`` with a mean, that is used. Else the guide is run: a site that is sampled
    first, from a law with a mean that no noise enters, has that mean; any other the mean over samples of its law's
    mean given what was sampled before it, or of its value where the law knows no mean.

    Args:
        who: the caller, for messages.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments that starts with them.
        site: a latent site; None for all of them, one after the other.
        num_samples: samples for each datum, where they are needed.
        plate: the batch plate's name, needed only where several would do.

    Raises:
        ValueError: the guide has no such site or none in a plate over the data, ``num_samples`` is below 2 where
            samples are needed, or x is empty or not finite.
    """
    check_count(who, "num_samples", num_samples)
    rows = Rows(who, x, None, guide, plate)
    check_arguments(rows.args, guide=guide)
    blocks = []
    with rows.at_rest(), local_params(guide):
        width = rows.block_of(BLOCK)
        for start in range(0, rows.size, width):
            block = rows.take(slice(start, start + width))
            blocks.append(_of_block(who, guide, block, site, num_samples, plate))
    means, noises, masks, units = zip(*blocks, strict=True)
    mask = torch.cat(masks)
    there = None if mask.all() else mask
    return PosteriorMeans(torch.cat(means), torch.cat(noises), units[0], num_samples, there)


def _of_block(
    who: str, guide: Program, args: tuple[Any, ...], name: str | None, num_samples: int, plate: str | None
) -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """Return E_q[z | x], the variance of that estimate (0 where it is exact), what is not masked, and the units."""
    with plain_errors(who, "the guide"):
        trace = poutine.trace(guide).get_trace(*args)
    first, wanted = _latents(who, trace, name)
    dim = _batch_dim(who, wanted, len(args[0]), plate)
    values = [_by_datum(site, site["value"], dim) for site in wanted]
    shape = torch.cat(values, 1).shape
    units = tuple(
        f"{site['name']}[{unit}]" for site, value in zip(wanted, values, strict=True) for unit in range(value.shape[1])
    )
    there = torch.cat([_by_datum(site, _mask(site), dim) for site in wanted], 1).cpu()
    alone = len(wanted) == 1 and wanted[0] is first
    closed = _closed_mean(guide, args) if alone else None
    if closed is not None and closed.numel() == shape.numel():
        mean = closed.reshape(shape).double().cpu()
        return mean, torch.zeros_like(mean), there, units

    def means_of(trace: poutine.Trace) -> Tensor:
        """Return the mean of each law given what was sampled before it; the value where the law knows no mean."""
        means = []
        for site in _latents(who, trace, name)[1]:
            mean = mean_of_law(site)
            means.append(_by_datum(site, site["value"] if mean is None else mean, dim).double().cpu())
        return torch.cat(means, 1)

    draws = [means_of(trace), means_of(poutine.trace(guide).get_trace(*args))]
    # What comes first follows from x alone, unless the guide draws noise that is no site.
    if not (alone and torch.equal(*draws)):
        if num_samples < 2:
            raise ValueError(
                f"{who}: num_samples must be at least 2 where the guide offers no mean of q(z | x); got {num_samples}."
            )
        draws += [means_of(poutine.trace(guide).get_trace(*args)) for _ in range(num_samples - 2)]
    stacked = torch.stack(draws)
    return stacked.mean(0), stacked.var(0) / len(draws), there, units


def _latents(who: str, trace: poutine.Trace, name: str | None) -> tuple[Site, list[Site]]:
    """Return the guide's first site, and those that are asked for."""
    drawn = [site for site in samples(trace) if not site["is_observed"]]
    latents = [site for site in drawn if not site["infer"].get("is_auxiliary")]
    wanted = latents if name is None else [site for site in drawn if site["name"] == name]
    if not wanted:
        listed = ", ".join(site["name"] for site in drawn) or "none at all"
        what = "no latent site" if name is None else f"no site {name!r}"
        raise ValueError(f"{who}: the guide has {what}, only {listed}; pass site='NAME'.")
    return drawn[0], wanted


def _batch_dim(who: str, sites: list[Site], rows: int, plate: str | None) -> int:
    """Return the dim of the plate over data, a negative batch dim."""
    frames = {frame.name: frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized}
    shared = set.intersection(*({f.name for f in site["cond_indep_stack"] if f.vectorized} for site in sites))
    names = [name for name in shared if frames[name].size in (rows, -1) and plate in (None, name)]
    if len(names) > 1 and PLATE in names:
        names = [PLATE]
    if len(names) != 1:
        listed = ", ".join(f"{site['name']} {tuple(site['fn'].batch_shape)}" for site in sites)
        raise ValueError(
            f"{who}: each latent site must be inside one vectorized plate over the {rows} data, which "
            f"{'plate=... names where several would do' if names else 'these batch shapes are not'}: {listed}."
        )
    return int(frames[names[0]].dim)


def _by_datum(site: Site, value: Tensor, dim: int) -> Tensor:
    """Return something of a site's value as ``(batch, units)``."""
    fn = site["fn"]
    value = value.expand(fn.batch_shape + fn.event_shape)
    return value.movedim(len(fn.batch_shape) + dim, 0).flatten(1) if value.ndim > 1 else value.unsqueeze(1)


def _mask(site: Site) -> Tensor:
    """Return which elements of a site's value are not masked."""
    mask = element_mask(site)
    return torch.ones(1, dtype=torch.bool) if mask is None else mask.cpu()


def mean_of_law(site: Site) -> Tensor | None:
    """Return the mean of a site's law, NaN of a law that has none; None where it is not known in closed form."""
    fn, value = site["fn"], site["value"]
    try:
        mean: Tensor = fn.mean
    except (NotImplementedError, AttributeError):
        return None
    # What torch calls the mean of an angle is a direction, and a categorical law has a NaN for a mean.
    unknown = isinstance(innermost(fn), ON_THE_CIRCLE) or (not value.is_floating_point() and bool(mean.isnan().any()))
    return None if unknown else mean


def _closed_mean(guide: Program, args: tuple[Any, ...]) -> Tensor | None:
    """Return the mean that a guide's ``posterior(x)`` offers, if it does."""
    try:
        return guide.posterior(*args).mean if isinstance(guide, PosteriorGuide) else None
    except (NotImplementedError, AttributeError, TypeError):
        return None
