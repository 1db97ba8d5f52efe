"""Pairs whose loss is a sum over the batch and global latents, without a weight of each datum."""

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
    """The structure of a pair that has a loss, and no weight of each datum."""

    model: Program
    guide: Program
    plate: BatchPlate
    """The plate over what the model observes: its rows, and how many data they stand for."""
    num_rows: int | None
    hides_data: bool
    """Whether a mask hides elements of what is observed, so that they may be anything."""
    bounded: frozenset[str] = frozenset()
    """Latent sites whose draws may lie outside their support; none are known here."""

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
        objective: the objective.
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
            # They cannot be run together, which is the reason that is raised.
            raise reason from None
    of_model, of_guide = prune_subsample_sites(of_model), prune_subsample_sites(of_guide)
    latents = [site for site in samples(of_model) if not site["is_observed"]]
    enumerated = [site["name"] for site in latents if site["infer"].get("enumerate") is not None]
    check_sites(of_model, of_guide, summed_out=enumerated if isinstance(objective, TraceEnum_ELBO) else ())
    observed = [site for site in samples(of_model) if site["is_observed"]]
    if not observed:
        raise reason
    logger.warning("fit: trains a loss that is a sum; evaluations of each datum will refuse this pair: %s", reason)
    rows = first_rows(args)
    frames = [frame for site in observed for frame in site["cond_indep_stack"] if frame.vectorized]
    frame = next((frame for frame in frames if frame.size == rows), None)
    size = rows or 0
    plate = BatchPlate("", -1, size, size)
    if frame is not None:
        plate = BatchPlate(frame.name, frame.dim, size, frame.full_size)
    if num_data and rows and num_data != rows and plate.full_size == rows:
        if all(_is_scaled(site, num_data / rows) for site in observed):
            plate = replace(plate, full_size=num_data)
        else:
            shared = [site["name"] for site in latents if frame is not None and frame not in site["cond_indep_stack"]]
            _warn_of_global_latents(shared, plate, num_data)
    return Summed(model, guide, plate, rows, filled.masked)


def _is_scaled(site: Any, scale: float) -> bool:
    """Whether `poutine.scale` makes a batch stand for all data, as a plate with a subsample does."""
    of_site = site["scale"]
    is_number = not isinstance(of_site, Tensor) or of_site.numel() == 1
    return is_number and math.isclose(float(of_site), scale, rel_tol=1e-4)


def _warn_of_global_latents(latents: Sequence[str], plate: BatchPlate, num_data: int) -> None:
    """Log that the KL of global latents counts whole in each batch, as if the batch were all data."""
    if latents:
        single = len(latents) == 1
        logger.warning(
            "fit: %s to no datum and %s whole in each batch of %d of %d data, so that %s posterior would be one of %d "
            "data: let the plate stand for all of them, pyro.plate(%r, %d, subsample_size=...) with as many as a batch "
            "has, or take one batch of all.",
            f"{', '.join(latents)} {'belongs' if single else 'belong'}", "counts" if single else "count", plate.size,
            num_data, "its" if single else "their", plate.size, plate.name, num_data,
        )  # fmt: skip
