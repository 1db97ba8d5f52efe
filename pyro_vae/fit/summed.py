"""Pairs whose loss is a sum over a batch and over what no datum owns: what training needs to know of them."""

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.errors import PairError
from pyro_vae.objectives.particle_bound import ParticleBound
from pyro_vae.programs.batch_plate import check_sites
from pyro_vae.programs.modules import as_args, first_rows, local_params, modules_of
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import BatchPlate, samples
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.programs.values import FilledMask
from pyro_vae.protocols import Objective, Program

logger = logging.getLogger("pyro_vae")


@dataclass(frozen=True, eq=False)
class Summed:
    """A pair that has a loss, and no weight of each datum."""

    model: Program
    guide: Program
    plate: BatchPlate
    """Of what the model observes: how many rows, and how many they stand for."""
    num_rows: int | None
    hides_data: bool
    """Whether a mask hides elements of what is observed, so that they may be anything."""
    bounded: frozenset[str] = frozenset()
    """Latent sites whose draws may lie outside their support; of such a pair none are known."""

    def guarded(self) -> AbstractContextManager[Any]:
        """Return what a loss of the pair is computed in, as :meth:`pyro_vae.programs.pair.Pair.guarded`."""
        return FilledMask() if self.hides_data else nullcontext()


def trained_pair(
    model: Program, guide: Program, x: Any, objective: Objective, num_data: int | None = None
) -> "Pair | Summed":
    """Return the structure of a pair, as far as its objective needs one.

    Objectives made of the weights of each datum need a plate over data that holds every site. Pyro's own sum: a latent
    may be global, as the weights of a Bayesian network, and one that only the model has may be enumerated.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: model inputs, or a tuple of all positional arguments.
        objective: that is trained.
        num_data: how many data batches like ``x`` are drawn from, where that is known.

    Raises:
        PairError: the objective cannot be computed of this pair.
    """
    try:
        return Pair(model, guide, x)
    except PairError as error:
        reason = error
    if isinstance(objective, ParticleBound):
        raise reason
    args = as_args(x)
    modules = modules_of(model, guide)
    with torch.no_grad(), no_side_effects(modules), local_params(model, guide), FilledMask() as filled:
        try:
            of_guide = poutine.trace(guide).get_trace(*args)
            of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(*args)
        except (RuntimeError, ValueError, TypeError):
            # They cannot be run together: that has been said.
            raise reason from None
    of_model, of_guide = prune_subsample_sites(of_model), prune_subsample_sites(of_guide)
    enumerated = set()
    if isinstance(objective, TraceEnum_ELBO):
        enumerated = {site["name"] for site in samples(of_model) if _is_enumerated(site)}
    check_sites(of_model, of_guide, summed_out=enumerated)
    observed = [site for site in samples(of_model) if site["is_observed"]]
    if not observed:
        raise reason
    logger.warning("fit: trains a loss that is a sum; evaluations of each datum will refuse this pair: %s", reason)
    rows = first_rows(args)
    frames = [frame for site in observed for frame in site["cond_indep_stack"] if frame.vectorized]
    frame = next((frame for frame in frames if frame.size == rows), None)
    size = rows or 0
    plate = (
        BatchPlate("", -1, size, size) if frame is None else BatchPlate(frame.name, frame.dim, size, frame.full_size)
    )
    if num_data and rows and num_data != rows and plate.full_size == rows:
        if all(_is_scaled(site, num_data / rows) for site in observed):
            plate = replace(plate, full_size=num_data)
        else:
            latents = [site for site in samples(of_model) if not site["is_observed"]]
            own = [site["name"] for site in latents if frame is not None and frame not in site["cond_indep_stack"]]
            _say_what_counts_whole(own, plate, num_data)
    return Summed(model, guide, plate, rows, filled.masked)


def _is_scaled(site: Any, scale: float) -> bool:
    """Whether `poutine.scale` makes a batch stand for all data, as a plate with a subsample does."""
    found = site["scale"]
    return (not isinstance(found, Tensor) or found.numel() == 1) and math.isclose(float(found), scale, rel_tol=1e-4)


def _say_what_counts_whole(latents: Sequence[str], plate: BatchPlate, num_data: int) -> None:
    """Log that a batch is taken for all data."""
    if latents:
        one = len(latents) == 1
        logger.warning(
            "fit: %s to no datum and %s whole in each batch of %d of %d data, so that %s posterior would be one of %d "
            "data: let the plate stand for all of them, pyro.plate(%r, %d, subsample_size=...) with as many as a batch "
            "has, or take one batch of all.",
            f"{', '.join(latents)} {'belongs' if one else 'belong'}", "counts" if one else "count", plate.size,
            num_data, "its" if one else "their", plate.size, plate.name, num_data,
        )  # fmt: skip


def _is_enumerated(site: Any) -> bool:
    return not site["is_observed"] and site["infer"].get("enumerate") is not None
