"""Draws, predictions, log-likelihoods and diagnostics of a pair, with named dims, for ArviZ."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.evaluation.arviz_groups import as_inference_data
from pyro_vae.evaluation.evidence.weight_sums import WeightMean
from pyro_vae.evaluation.over_data.latent_draws import DrawnBlock, LatentDraws, by_datum, inner_plates
from pyro_vae.programs.layouts import FixedValues
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.pair import SOFT_TARGETS
from pyro_vae.programs.particles import Particles, Site, samples
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.programs.redrawn import Redrawn, is_factor, refuse_factors
from pyro_vae.programs.values import observed_value
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count
from pyro_vae.runtime.random_state import seeded

if TYPE_CHECKING:
    from xarray import Dataset

logger = logging.getLogger("pyro_vae")

GROUPS = (
    "posterior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "sample_stats",
    "observed_data",
)
"""ArviZ's names."""

DRAWN = ("posterior_predictive", "prior_predictive")
"""Groups that need a law of x."""

SAMPLE = ("chain", "draw")
DATUM = "datum"


def to_inference_data(
    model: Program,
    guide: Program,
    x: Any,
    *,
    num_samples: int = 100,
    num_chains: int = 4,
    groups: Sequence[str] | None = None,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> Any:
    r"""Return the guide's draws, and what follows from them, for ArviZ to summarise, plot and save.

    ============================ ==========================================================================
    group                        what it holds, for each datum
    ============================ ==========================================================================
    ``posterior``                z ~ q(z | x), each latent site
    ``posterior_predictive``     x' ~ p(x | z) for those z
    ``prior``                    z ~ p(z)
    ``prior_predictive``         x' ~ p(x | z) for these z
    ``log_likelihood``           log p(x | z) of each observed site, in nats
    ``sample_stats``             ``log_weight`` log p(x, z) - log q(z | x) of each draw, ``pareto_k`` of each
                                 datum's weights (NaN below 26 of them, or
                                 where float32 cannot resolve them), ``flagged``: one of them is NaN or +inf,
                                 ``unresolved``: roundings may move them by more than 0.1 nats
    ``observed_data``            x, each observed site
    ============================ ==========================================================================

    Dims are ``chain``, ``draw``, ``datum``, the names of inner plates, and ``SITE_dim`` for an event of one dim,
    ``SITE_dim_0``, ``SITE_dim_1``... for one of several; all have coordinates that count from 0. The guide's draws are
    independent: chains are a label, by which ArviZ compares them. z belongs to its datum, so that leave-one-out
    from ``log_likelihood`` says nothing of new data. What a mask hides is NaN, in all groups of draws and data.

    All draws are held in memory; predictions are as large as the data times the number of draws.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim.
        num_samples: draws a chain.
        num_chains: chains.
        groups: which to make; None makes all, but for predictions from a likelihood of soft targets, which is no
            law of x.
        plate: the batch plate's name, needed only where several would do.
        seed: of the draws; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        ``arviz.InferenceData`` of ArviZ 0.x; ``xarray.DataTree``, where that is 1.x.

    Raises:
        ValueError: ``num_samples`` or ``num_chains`` is below 1, there is no such group, predictions of soft targets
            are asked for, x is empty or not finite, or the batch plate subsamples.
        PairError: model and guide do not fit each other, or have no batch plate.
        NonFiniteError: no datum gives finite numbers.

    References:
        R. Kumar, C. Carroll, A. Hartikainen, O. Martin (2019), *ArviZ, a unified library for exploratory analysis of
        Bayesian models in Python*, JOSS 4(33).
    """
    for name, value in (("num_samples", num_samples), ("num_chains", num_chains)):
        check_count("to_inference_data", name, value)
    unknown = sorted(set(groups or ()) - set(GROUPS))
    if unknown:
        raise ValueError(f"to_inference_data: groups are {', '.join(GROUPS)}; got {', '.join(unknown)}.")
    with seeded(seed):
        draws = LatentDraws("to_inference_data", model, guide, x, num_chains * num_samples, plate, progress)
        gathered = _Groups(draws, _possible(draws, groups))
        for drawn in draws:
            gathered.add(drawn)
    return as_inference_data(gathered.datasets(num_chains))


def _possible(draws: LatentDraws, groups: Sequence[str] | None) -> list[str]:
    """Return the groups to make, in ArviZ's order."""
    wanted = [name for name in GROUPS if groups is None or name in groups]
    if "sample_stats" in wanted:
        draws.pair.require_density(draws.who)
    caveat = draws.pair.caveat
    if caveat is None:
        return wanted
    drawn = DRAWN if caveat == SOFT_TARGETS else (*DRAWN, "prior")
    text = "a likelihood of soft targets is no law of x" if caveat == SOFT_TARGETS else caveat
    if groups is not None and set(groups) & set(drawn):
        raise ValueError(
            f"to_inference_data: {text}: nothing can be drawn from it. Leave {' and '.join(drawn)} out of groups."
        )
    if groups is None:
        logger.warning("to_inference_data: %s: %s are left out", text, " and ".join(drawn))
    return [name for name in wanted if name not in drawn]


class _Groups:
    """Gathers, block by block, the variables of each group.

    Args:
        draws: the pair, its data and the number of draws.
        names: the groups to make.
    """

    def __init__(self, draws: LatentDraws, names: Sequence[str]) -> None:
        self._draws = draws
        self._groups: dict[str, dict[str, tuple[list[str], Tensor]]] = {name: {} for name in names}
        """Of each variable of each group its inner dims, and its values ``(num_draws, N, *inner)``.

        Observed data have values ``(N, *inner)``.
        """

    def add(self, drawn: DrawnBlock) -> None:
        """Take in one run."""
        run = drawn.run
        latent = [site for site in samples(run.model_trace) if not site["is_observed"]]
        observed = [site for site in samples(run.model_trace) if _is_seen(site)]
        self._put("posterior", drawn, run, latent)
        for site in observed:
            if "log_likelihood" in self._groups:
                self._keep("log_likelihood", site["name"], drawn, run.log_prob([site]), [])
        if "sample_stats" in self._groups:
            self._keep("sample_stats", "log_weight", drawn, run.terms().log_weight, [])
        if drawn.samples.start == 0:
            self._put("observed_data", drawn, run, observed)
        if "posterior_predictive" in self._groups:
            again = self._simulate(drawn, {site["name"]: site["value"] for site in latent})
            self._put("posterior_predictive", drawn, again, _named(again, observed))
        if "prior" in self._groups or "prior_predictive" in self._groups:
            again = self._simulate(drawn, {})
            self._put("prior", drawn, again, _named(again, latent))
            self._put("prior_predictive", drawn, again, _named(again, observed))

    def datasets(self, num_chains: int) -> "dict[str, Dataset]":
        """Return the groups, draws dealt out to chains."""
        from xarray import Dataset

        from pyro_vae.version import __version__

        datasets = {}
        attributes = {"inference_library": "pyro-vae", "inference_library_version": __version__}
        for group, kept in self._groups.items():
            variables: dict[str, Any] = {}
            for name, (dims, values) in kept.items():
                if group == "observed_data":
                    variables[name] = ([DATUM, *dims], values.numpy())
                else:
                    variables[name] = ([*SAMPLE, DATUM, *dims], values.unflatten(0, (num_chains, -1)).numpy())
            if group == "sample_stats":
                for name, values in self._diagnostics(kept["log_weight"][1]).items():
                    variables[name] = ([DATUM], values.numpy())
            datasets[group] = Dataset(variables, coords=_coordinates(variables), attrs=attributes)
        return datasets

    def _diagnostics(self, log_weight: Tensor) -> dict[str, Tensor]:
        """Return what speaks against the log-weights ``(num_draws, N)`` of each datum, each ``(N,)``."""
        count, rounding = len(log_weight), self._draws.rounding
        flagged = (log_weight.isnan() | (log_weight == math.inf)).any(0)
        khat = torch.full(flagged.shape, math.nan, dtype=torch.float64)
        if not flagged.all():
            khat[~flagged], _ = WeightMean(count).add(log_weight[:, ~flagged]).khat(rounding, ~flagged)
        unresolved = rounding.lost(log_weight.abs().amax(0), slice(None)) & ~flagged
        if unresolved.any():
            logger.warning("%s: %s", self._draws.who, UNRESOLVED)
        return {"pareto_k": khat, "unresolved": unresolved, "flagged": flagged}

    def _put(self, group: str, drawn: DrawnBlock, run: Particles, sites: Iterable[Site]) -> None:
        """Keep the values of sites, if the group is one to make."""
        for site in sites if group in self._groups else ():
            name, count = site["name"], len(site["fn"].event_shape)
            plates = [f"{plate}_plate" if plate in (DATUM, *SAMPLE) else plate for plate in inner_plates(run, site)]
            event = [f"{name}_dim"] if count == 1 else [f"{name}_dim_{index}" for index in range(count)]
            value, mask = by_datum(run, site, observed_value(site)), element_mask(site)
            if mask is not None:
                # Whole numbers have no NaN.
                value = value if value.is_floating_point() else value.double()
                value = value.masked_fill(~by_datum(run, site, mask.to(value.device)), math.nan)
            self._keep(group, name, drawn, value, [*plates, *event])

    def _keep(self, group: str, name: str, drawn: DrawnBlock, values: Tensor, dims: list[str]) -> None:
        """Keep values ``(num_samples, batch, *rest)``."""
        values = values.detach().cpu()
        where: tuple[slice, ...] = (drawn.samples, drawn.data)
        if group == "observed_data":
            values, where = values[0], where[1:]
        if name not in self._groups[group]:
            lead = [self._draws.num_samples, self._draws.size][-len(where) :]
            self._groups[group][name] = dims, values.new_empty(*lead, *values.shape[len(where) :])
        self._groups[group][name][1][where] = values

    def _simulate(self, drawn: DrawnBlock, values: Mapping[str, Tensor]) -> Particles:
        """Run the model with nothing observed, its latent sites drawn or at given values."""
        draws = self._draws
        block = draws.take(drawn.data)
        with draws.pair.explained(), Redrawn():
            run = draws.pair.run_alone(
                draws.model, block, drawn.samples.stop - drawn.samples.start, FixedValues(values)
            )
        refuse_factors(draws.who, run.model_trace)
        return run


def _is_seen(site: Site) -> bool:
    """Whether a site is data, and not a factor in the density."""
    return site["is_observed"] and not is_factor(site)


def _named(run: Particles, sites: Iterable[Site]) -> list[Site]:
    """Return the model's sites of a run that have the names of other sites."""
    names = {site["name"] for site in sites}
    return [site for site in samples(run.model_trace) if site["name"] in names]


def _coordinates(variables: Mapping[str, tuple[list[str], Any]]) -> dict[str, range]:
    sizes = {dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape, strict=True)}
    return {dim: range(size) for dim, size in sizes.items()}
