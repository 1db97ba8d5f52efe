"""What a fitted pair says, as ArviZ reads it: draws, predictions, log-likelihoods and diagnostics, with named dims."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.evaluation.arviz_groups import as_inference_data
from pyro_vae.evaluation.evidence.pareto import pareto_k, tail_length
from pyro_vae.evaluation.over_data.latent_draws import Draws, LatentDraws, by_datum, inner_plates
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.pair import SOFT_TARGETS
from pyro_vae.programs.particles import Particles, Site, samples
from pyro_vae.programs.precision import UNRESOLVED, Rounding
from pyro_vae.programs.redrawn import Redrawn, is_factor, refuse_factors
from pyro_vae.programs.values import FixedValues, observed_value
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
"""Groups that take a law of x."""

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
    r"""Return the guide's draws and what follows from them in the form that ArviZ summarises, plots and saves.

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

    The draws of all data are held in memory, and predictions are as large as the data times the draws.

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
        found = _Groups(draws, _possible(draws, groups))
        for drawn in draws:
            found.add(drawn)
    return as_inference_data(found.datasets(num_chains))


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
        self._draws, self._names = draws, names
        self._values: dict[tuple[str, str], Tensor] = {}
        """Of each group and variable, ``(num_draws, N, *rest)``, or ``(N, *rest)`` of what is observed."""
        self._dims: dict[tuple[str, str], list[str]] = {}

    def add(self, drawn: Draws) -> None:
        """Take in one run."""
        run = drawn.run
        latent = [site for site in samples(run.model_trace) if not site["is_observed"]]
        observed = [site for site in samples(run.model_trace) if _is_seen(site)]
        names = {site["name"] for site in latent}, {site["name"] for site in observed}
        self._put("posterior", drawn, run, latent)
        if "log_likelihood" in self._names:
            for site in observed:
                self._keep("log_likelihood", site["name"], drawn, run.log_prob([site], [1.0]), [])
        if "sample_stats" in self._names:
            self._keep("sample_stats", "log_weight", drawn, run.terms().log_weight, [])
        if "observed_data" in self._names and drawn.samples.start == 0:
            self._put("observed_data", drawn, run, observed)
        if "posterior_predictive" in self._names:
            values = {site["name"]: site["value"] for site in latent}
            again = self._simulate(drawn, values)
            self._put("posterior_predictive", drawn, again, _named(again, names[1]))
        if {"prior", "prior_predictive"} & set(self._names):
            again = self._simulate(drawn, {})
            self._put("prior", drawn, again, _named(again, names[0]))
            if "prior_predictive" in self._names:
                self._put("prior_predictive", drawn, again, _named(again, names[1]))

    def datasets(self, num_chains: int) -> "dict[str, Dataset]":
        """Return the groups, draws dealt out to chains."""
        from xarray import Dataset

        from pyro_vae.version import __version__

        found = {}
        attributes = {"inference_library": "pyro-vae", "inference_library_version": __version__}
        for group in self._names:
            variables: dict[str, Any] = {}
            for (owner, name), value in self._values.items():
                if owner == group:
                    sampled = group != "observed_data"
                    shaped = value.unflatten(0, (num_chains, -1)) if sampled else value
                    dims = [*(SAMPLE if sampled else ()), DATUM, *self._dims[group, name]]
                    variables[name] = (dims, shaped.numpy())
            if group == "sample_stats":
                log_weight = self._values[group, "log_weight"]
                flagged = (log_weight.isnan() | (log_weight == math.inf)).any(0)
                rounding = self._draws.rounding
                variables["pareto_k"] = ([DATUM], _pareto_k(log_weight, flagged, rounding).numpy())
                lost = rounding.lost(log_weight.abs().amax(0), slice(None)) & ~flagged
                variables["unresolved"] = ([DATUM], lost.numpy())
                if lost.any():
                    logger.warning("%s: %s", self._draws.who, UNRESOLVED)
                variables["flagged"] = ([DATUM], flagged.numpy())
            found[group] = Dataset(variables, coords=_coordinates(variables), attrs=attributes)
        return found

    def _put(self, group: str, drawn: Draws, run: Particles, sites: Iterable[Site]) -> None:
        """Keep the values of sites."""
        if group not in self._names:
            return
        for site in sites:
            name, count = site["name"], len(site["fn"].event_shape)
            plates = [f"{plate}_plate" if plate in (DATUM, *SAMPLE) else plate for plate in inner_plates(run, site)]
            event = [f"{name}_dim"] if count == 1 else [f"{name}_dim_{index}" for index in range(count)]
            value, mask = by_datum(run, site, observed_value(site)), element_mask(site)
            if mask is not None:
                # Whole numbers have no NaN.
                value = value if value.is_floating_point() else value.double()
                value = value.masked_fill(~by_datum(run, site, mask.to(value.device)), math.nan)
            self._keep(group, name, drawn, value, [*plates, *event])

    def _keep(self, group: str, name: str, drawn: Draws, values: Tensor, dims: list[str]) -> None:
        """Keep values ``(num_samples, batch, *rest)``."""
        values = values.detach().cpu()
        where: tuple[slice, ...] = (drawn.samples, drawn.data)
        if group == "observed_data":
            values, where = values[0], where[1:]
        if (group, name) not in self._values:
            lead = [self._draws.num_samples, self._draws.size][-len(where) :]
            self._values[group, name] = values.new_empty(*lead, *values.shape[len(where) :])
            self._dims[group, name] = dims
        self._values[group, name][where] = values

    def _simulate(self, drawn: Draws, values: Mapping[str, Tensor]) -> Particles:
        """Run the model with nothing observed, its latent sites drawn or at given values."""
        draws = self._draws
        block = draws.take(drawn.data)
        with Redrawn():
            run = draws.pair.run_alone(
                draws.model, block, drawn.samples.stop - drawn.samples.start, FixedValues(values)
            )
        refuse_factors(draws.who, run.model_trace)
        return run


def _is_seen(site: Site) -> bool:
    """Whether a site is data, and not a factor in the density."""
    return site["is_observed"] and not is_factor(site)


def _named(run: Particles, names: set[str]) -> list[Site]:
    return [site for site in samples(run.model_trace) if site["name"] in names]


def _pareto_k(log_weight: Tensor, flagged: Tensor, rounding: Rounding) -> Tensor:
    """Return the k-hat of each datum, ``(N,)``; NaN where it is flagged, unknown or there are too few draws."""
    count = len(log_weight)
    found = torch.full((log_weight.shape[1],), math.nan, dtype=torch.float64)
    if not flagged.all():
        largest = log_weight[:, ~flagged].mT.topk(min(tail_length(count) + 1, count), dim=1).values
        found[~flagged] = pareto_k(largest, count, rounding.of(largest[:, 0], ~flagged))
    return found


def _coordinates(variables: Mapping[str, tuple[list[str], Any]]) -> dict[str, range]:
    sizes = {dim: size for dims, array in variables.values() for dim, size in zip(dims, array.shape, strict=True)}
    return {dim: range(size) for dim, size in sizes.items()}
