"""Which elements of a site count: masks of ``poutine.mask``, ``dist.mask`` and ``obs_mask``, read off a trace."""

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from pyro_vae.errors import PairError
from pyro_vae.programs.laws import layers
from pyro_vae.programs.particles import Particles, Site, samples


def masks_of(site: Site) -> list[tuple[Any, int]]:
    """Return the masks of a site and of its law that hide something, each with the event dims right of it."""
    fn = site["fn"]
    found = [(site["mask"], fn.event_dim)]
    found += [(law._mask, law.event_dim) for law in layers(fn) if isinstance(law, MaskedDistribution)]
    return [(mask, event_dim) for mask, event_dim in found if mask is not None and mask is not True]


def element_mask(site: Site) -> Tensor | None:
    """Return which elements of a site's value count, of the value's shape; None where it has no mask."""
    shape = site["fn"].batch_shape + site["fn"].event_shape
    total: Tensor | None = None
    for mask, event_dim in masks_of(site):
        mask = torch.as_tensor(mask).bool()
        mask = mask.reshape((*mask.shape, *(1,) * event_dim)).expand(shape)
        total = mask if total is None else total & mask
    return total


def has_masked_latents(trace: Any) -> bool:
    """Whether a latent site of a trace has a mask, which may hide something of some data or other."""
    return any(masks_of(site) for site in samples(trace) if not site["is_observed"])


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


def masked_log_volume(site: Site, onto_support: Any, coordinates: Tensor, value: Tensor) -> Tensor:
    """Return log|det| of a site's map onto its support, over the elements that count, of the site's batch shape."""
    elementwise = _elementwise(onto_support)
    log_volume = elementwise.log_abs_det_jacobian(coordinates, value)
    mask = element_mask(site)
    assert mask is not None
    mask = mask[(..., *(0,) * elementwise.codomain.event_dim)].to(log_volume.device)
    log_volume = torch.where(mask, log_volume, torch.zeros_like(log_volume))
    summed = onto_support.codomain.event_dim - elementwise.codomain.event_dim
    return log_volume.sum(list(range(-summed, 0))) if summed else log_volume


def with_other_masked_values(trace: Trace, other: Trace) -> Trace:
    """Return a copy of a trace whose masked latent elements have the values of another one."""
    found = trace.copy()
    for site in samples(trace):
        mask, theirs = element_mask(site), other.nodes[site["name"]]["value"]
        if mask is not None and not site["is_observed"] and theirs.shape == site["value"].shape:
            value = torch.where(mask.to(theirs.device), site["value"], theirs)
            found.nodes[site["name"]] = {**site, "value": value}
    return found


def check_same_masks(run: Particles) -> None:
    """Refuse latent elements that only one of model and guide masks.

    Raises:
        PairError: names the site. What is in p and not in q, or the other way round, makes a weight whose mean is not
            the evidence.
    """
    in_guide_by_name = {site["name"]: site for site in samples(run.guide_trace)}
    for site in samples(run.model_trace):
        name = site["name"]
        if site["is_observed"] or name not in in_guide_by_name:
            continue
        in_model, in_guide = element_mask(site), element_mask(in_guide_by_name[name])
        if in_model is None and in_guide is None:
            continue
        counts = [torch.ones((), dtype=torch.bool) if mask is None else mask for mask in (in_model, in_guide)]
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
