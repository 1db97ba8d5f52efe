r"""The aggregate posterior q(z) = 1/N sum_n q(z | x_n) of N data: the finite mixture, scored at any z."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vae.evaluation.over_data.latent_draws import LatentDraws, plates_of
from pyro_vae.programs.layouts import FixedValues, OuterPlate
from pyro_vae.programs.modules import local_params
from pyro_vae.programs.particles import Particles, Site, samples
from pyro_vae.runtime.wording import in_one_line

PRECISION = 1e-8
"""Nats that a Gaussian's exponent, expanded for a matrix product, may lose to cancellation."""

LOG_2_PI = math.log(2 * math.pi)

Values = Mapping[str, Tensor]

Score = Callable[[Values], Tensor]
"""From values ``(draws, *rest)`` of each site to log q(z_{<=s} | x) for each site s, ``(draws, components, sites)``."""


@dataclass(frozen=True)
class MixtureBlocks:
    """How much of the mixture is held at once."""

    components: int = 256
    """Posteriors that a block of the mixture holds."""
    latents: int = 2_000_000
    """Numbers of z scored at once: draws times posteriors times units."""
    pairs: int = 250_000
    """Draws times Gaussian posteriors at once, 2 MB of densities."""
    rows: int = 20_000
    """Rows of a guide that is run again at other values, whose networks are wider than z."""


BLOCKS = MixtureBlocks()


class ForeignDensityError(ValueError):
    """The guide cannot score a z that it did not draw; the message says why."""


def log_aggregate(
    draws: LatentDraws, values: Values, members: Tensor, there: Tensor | None = None, blocks: MixtureBlocks = BLOCKS
) -> Tensor:
    r"""Return log q(z_{<=s}) of every draw for each latent site s, ``(sites, num_samples, N)``, in float64.

    .. math:: \log q(z_{\le s}) = \log \sum_{m \in M} q(z_{\le s} | x_m) - \log |M|

    z_{<=s} are s and the sites that the guide samples before it, so that the last one is log q(z).

    These are N^2 densities for each sample; a block of them is held at a time. A guide with one latent site is run once
    on each block, and the law at that site scores all draws; one with several sites is run again at the draws' values.

    Args:
        draws: the pair and its data.
        values: of each latent site, ``(num_samples, N, *rest)``.
        members: which data are in M, ``(N,)``.
        there: which elements of z are not masked, ``(N, units)``; None where none is masked. All of M must have the
            same mask.
        blocks: how much is held at once.

    Raises:
        ForeignDensityError: the guide has variables of its own beside z, gives another density when it is run again,
            or cannot score foreign values; or the data mask different elements of z.
    """
    if there is not None and (there[members] != there[members][:1]).any():
        raise ForeignDensityError(
            "the data mask different latent elements, so that their posteriors are laws of different variables, of "
            "which there is no mixture. Give the data that share a mask by themselves"
        )
    flat = {name: value.flatten(0, 1) for name, value in values.items()}
    count = len(next(iter(flat.values())))
    total = torch.full((count, len(values)), -torch.inf, dtype=torch.float64)
    with draws.at_rest(), draws.bar(draws.size, " posteriors") as bar:
        width = draws.block_of(blocks.components)
        for start in range(0, draws.size, width):
            stop = min(start + width, draws.size)
            chosen = members[start:stop]
            score, pairs = _scorer(draws, draws.take(slice(start, stop)), flat, there is not None, blocks)
            step = max(1, pairs // (stop - start))
            for first in range(0, count if chosen.any() else 0, step):
                rows = slice(first, first + step)
                try:
                    log_q = score({name: value[rows] for name, value in flat.items()}).double()
                except (ValueError, NotImplementedError) as error:
                    raise ForeignDensityError(in_one_line(error)) from error
                if not chosen.all():
                    log_q = log_q[:, chosen.to(log_q.device)]
                total[rows] = torch.logaddexp(total[rows], log_q.logsumexp(1).cpu())
            bar.update(stop - start)
    whole = total - members.sum().double().log()
    return whole.unflatten(0, next(iter(values.values())).shape[:2]).movedim(-1, 0)


def _scorer(
    draws: LatentDraws, block: tuple[Any, ...], values: Values, masked: bool, blocks: MixtureBlocks
) -> tuple[Score, int]:
    """Return a function that scores values under the posteriors of a block, and how many pairs of the two it takes."""
    with local_params(draws.model, draws.guide):
        trace = poutine.trace(draws.guide).get_trace(*block)
    latent = _latent_sites(trace)
    size = Particles(trace, trace, trace, draws.pair.plate, draws.pair.particle_dim).shape[1]
    if masked or len(latent) > 1 or latent[0]["fn"].batch_shape != (size,):
        if not draws.pair.guide_repeats:
            raise ForeignDensityError("the guide, run again at the values it drew, gives them another density")
        return lambda chosen: _rerun(draws, block, latent, chosen), blocks.rows
    name, fn = latent[0]["name"], latent[0]["fn"]
    if _separates(fn, values[name]):
        gaussian = _gaussian(fn.base_dist)
        return lambda chosen: gaussian(chosen[name]).unsqueeze(-1), blocks.pairs

    def direct(chosen: Values) -> Tensor:
        value = chosen[name].to(latent[0]["value"].device)
        return fn.log_prob(value.unsqueeze(1).expand(-1, size, *fn.event_shape)).unsqueeze(-1)

    return direct, blocks.latents // max(1, fn.event_shape.numel())


def _latent_sites(trace: poutine.Trace) -> list[Site]:
    """Return the guide's sites, all of them latent sites of the model."""
    sites = list(samples(trace))
    auxiliary = [site["name"] for site in sites if site["is_observed"] or site["infer"].get("is_auxiliary")]
    if auxiliary:
        raise ForeignDensityError(
            f"the guide has sites of its own ({', '.join(auxiliary)}), and q(z | x) is an integral over them"
        )
    return sites


def _rerun(draws: LatentDraws, block: tuple[Any, ...], latent: list[Site], values: Values) -> Tensor:
    """Run the guide at each draw's values, the same ones for all data of a block."""
    log_q, layout = [], draws.pair.layout
    for chunk, count in layout.chunks(len(next(iter(values.values())))):
        chosen = {site["name"]: _spread(draws, site, values[site["name"]][chunk]) for site in latent}
        run = draws.pair.run_alone(draws.guide, block, count, FixedValues(chosen, layout))
        of_sites = [run.log_prob([site]).double() for site in samples(run.guide_trace)]
        log_q.append(torch.stack(of_sites, -1).cumsum(-1))
    return torch.cat(log_q)


def _spread(draws: LatentDraws, site: Site, value: Tensor) -> Tensor:
    """Return values ``(draws, *rest)`` of a site as a run with a plate of draws has them, the same for all data."""
    fn, pair, plates = site["fn"], draws.pair, plates_of(site)
    batch = range(-len(fn.batch_shape), 0)
    same = [fn.batch_shape[dim] if dim in plates and dim != pair.plate.dim else 1 for dim in batch]
    value = value.to(site["value"]).reshape(len(value), *same, *fn.event_shape)
    value = value.expand(-1, *fn.batch_shape, *fn.event_shape)
    # Between the draws and the site's own plates, the plates of other sites.
    gap = (1,) * (-pair.particle_dim - 1 - len(fn.batch_shape)) if isinstance(pair.layout, OuterPlate) else ()
    return value.reshape(len(value), *gap, *fn.batch_shape, *fn.event_shape)


def _separates(fn: Any, value: Tensor) -> bool:
    """Return whether a law is a diagonal Gaussian whose squares can be expanded without loss of digits."""
    if not (isinstance(fn, Independent) and isinstance(fn.base_dist, Normal) and fn.base_dist.loc.ndim == 2):
        return False
    base = fn.base_dist
    reach = max(part.double().abs().nan_to_num(0, 0).amax().item() for part in (value, base.loc))
    narrowest = base.scale.double().nan_to_num(1).amin().item()
    lost = base.loc.shape[-1] * torch.finfo(torch.float64).eps * reach**2
    return lost < PRECISION * narrowest**2


def _gaussian(base: Normal) -> Callable[[Tensor], Tensor]:
    """Return what computes log q of draws under all posteriors by a matrix product: -(z - m)^2 / 2 s^2, expanded."""
    loc, scale = base.loc.double(), base.scale.double()
    precision = scale.square().reciprocal()
    factors = torch.cat([loc * precision, -0.5 * precision], -1).mT
    constant = -0.5 * (loc.square() * precision).sum(-1) - scale.log().sum(-1) - 0.5 * loc.shape[-1] * LOG_2_PI

    def score(value: Tensor) -> Tensor:
        z = value.to(loc.device).double()
        return torch.addmm(constant, torch.cat([z, z.square()], -1), factors)

    return score
