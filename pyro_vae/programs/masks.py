"""Which elements of a site count: masks of ``poutine.mask``, ``dist.mask`` and ``obs_mask``, read off a trace."""

from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from pyro_vae.errors import PairError
from pyro_vae.programs.particles import Particles, Site, latent_sites
from pyro_vae.programs.values import seen_elements


def element_mask(site: Site) -> Tensor | None:
    """Return which elements of a site's value count, of the value's shape; None where it has no mask."""
    seen = seen_elements(site["fn"], site["mask"], within=object)
    return None if seen is None else seen.expand(site["fn"].batch_shape + site["fn"].event_shape)


def has_masked_latents(trace: Any) -> bool:
    """Whether a latent site of a trace has a mask, which may hide something of some data or other."""
    return any(element_mask(site) is not None for site in latent_sites(trace))


def coordinate_mask(site: Site, onto_support: Any) -> Tensor:
    """Return which of a site's unconstrained coordinates count, of their shape ``(*batch, *event)``."""
    shape = onto_support.inverse_shape(site["fn"].batch_shape + site["fn"].event_shape)
    mask = element_mask(site)
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=site["value"].device)
    # A law of several dims, as on a simplex, counts as a whole.
    event_dim = _elementwise(onto_support).codomain.event_dim
    mask = mask[(..., *(0,) * event_dim)]
    return mask.reshape(*mask.shape, *(1,) * (len(shape) - mask.ndim)).expand(shape)


def log_volume_of(site: Site, onto_support: Any, coordinates: Tensor, value: Tensor) -> Tensor:
    """Return log|det| of a site's map onto its support, over the elements that count, of the site's batch shape."""
    mask = element_mask(site)
    if mask is None:
        return onto_support.log_abs_det_jacobian(coordinates, value)
    elementwise = _elementwise(onto_support)
    log_volume = elementwise.log_abs_det_jacobian(coordinates, value)
    mask = mask[(..., *(0,) * elementwise.codomain.event_dim)].to(log_volume.device)
    log_volume = torch.where(mask, log_volume, torch.zeros_like(log_volume))
    summed = onto_support.codomain.event_dim - elementwise.codomain.event_dim
    return log_volume.sum(list(range(-summed, 0))) if summed else log_volume


def with_other_masked_values(trace: Trace, other: Trace) -> Trace:
    """Return a copy of a trace whose masked latent elements have the values of another one."""
    changed = trace.copy()
    for site in latent_sites(trace):
        mask, theirs = element_mask(site), other.nodes[site["name"]]["value"]
        if mask is not None and theirs.shape == site["value"].shape:
            value = torch.where(mask.to(theirs.device), site["value"], theirs)
            changed.nodes[site["name"]] = {**site, "value": value}
    return changed


def check_same_masks(run: Particles) -> None:
    """Refuse latent elements that only one of model and guide masks.

    Raises:
        PairError: names the site. What is in p and not in q, or the other way round, makes a weight whose mean is not
            the evidence.
    """
    for site in latent_sites(run.model_trace):
        name = site["name"]
        masks = [element_mask(trace.nodes[name]) for trace in (run.model_trace, run.guide_trace)]
        counts = [torch.ones((), dtype=torch.bool) if mask is None else mask for mask in masks]
        model_counts, guide_counts = torch.broadcast_tensors(*counts)
        differ = int((model_counts != guide_counts).sum())
        if differ:
            raise PairError(
                f"latent site {name!r}: model and guide must mask the same elements; {differ} of "
                f"{model_counts.numel()} are masked in one of them alone, so that the weights are not those of "
                f"log p(x). Put one mask around the site in both."
            )


def _elementwise(transform: Any) -> Any:
    """Return a transform without the sum over independent dims of its determinant."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform
