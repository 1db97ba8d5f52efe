r"""Gradients that treat the model's parameters, the samples and the guide's density apart.

The model is run at leaves: copies of the guide's samples that autograd cannot follow back. Then the gradient of
:math:`\log p(x, z)` at the leaves reaches the model's parameters alone, its derivative in z can be weighted anew, and
the chain rule through the samples is completed by hand: z(phi) times a fixed derivative.
"""

from dataclasses import replace
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, Sampled
from pyro_vae.pair import Pair, Revision
from pyro_vae.particles import Particles, samples


def leaves_of(trace: Trace) -> Trace:
    """Return the trace with each value that the guide drew as a leaf of its own."""
    detached = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site["is_observed"] and isinstance(site["value"], Tensor):
            value = site["value"].detach()
            detached.nodes[name] = {**site, "value": value.requires_grad_() if value.is_floating_point() else value}
    return detached


class LeafBound(ParticleBound):
    """A bound whose gradient is put together from the model at leaves, the samples, and the guide's density.

    It needs reparameterized samples; a guide without them is refused, never given a zero gradient.

    Args, errors: as for :class:`pyro_vae.objectives.particle_bound.ParticleBound`.
    """

    @property
    def at(self) -> Revision:
        """Where the model is run, given what the guide drew."""
        return leaves_of

    def put_together(self, sampled: Sampled, joint: Tensor, path: Tensor) -> Tensor:
        r"""Return ``(batch,)`` with two gradients: the model's, and the guide's through its samples alone.

        Factors in the guide (as the reverse model of an auxiliary guide) count with the model.

        .. math:: \sum_k a_k \nabla_\theta \log p(x, z_k)
            + b_k \frac{\partial}{\partial z_k} \log \frac{p(x, z_k)}{q(z_k | x)} \nabla_\phi z_k

        Args:
            sampled: the batch.
            joint: a, weights ``(total_particles, batch)``.
            path: b, weights ``(total_particles, batch)``.
        """
        sampled.require_reparameterized(type(self).__name__)
        parts = []
        sizes = [run.shape[0] for run in sampled.runs]
        for run, a, b in zip(sampled.runs, joint.detach().split(sizes), path.detach().split(sizes), strict=True):
            at_leaves = with_guide_at_leaves(sampled.pair, run, sampled.x)
            terms, _ = at_leaves.scaled_terms()
            # A density's score has mean zero and is left out; nobody knows that of a factor.
            direct = terms.log_joint - at_leaves.guide_factors()
            parts.append(a * direct + through_samples(run, b * terms.log_weight))
        return torch.cat(parts).sum(0)


def with_guide_at_leaves(pair: Pair, run: Particles, x: Any) -> Particles:
    """Return the run with the guide's density at the leaves, too: at a z that is foreign to it."""
    trace = run.replayed
    if len(list(samples(trace))) > 1:
        # One site's law depends on another's value.
        trace = pair.rerun_guide(x, trace)
    return replace(run, guide_trace=trace)


def through_samples(run: Particles, values: Tensor) -> Tensor:
    """Return ``(num_samples, batch)`` whose gradient is that of ``values`` through the samples alone.

    Args:
        run: with the model at leaves.
        values: what depends on the leaves, of any shape; summed.
    """
    leaves = [run.replayed.nodes[site["name"]]["value"] for site in run.latents]
    slopes = torch.autograd.grad(values.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    total = torch.zeros(run.shape, dtype=values.dtype, device=values.device)
    for site, slope in zip(run.latents, slopes, strict=True):
        event_dims = tuple(range(-site["fn"].event_dim, 0))
        product = site["value"] * slope
        total = total + run.per_datum(product.sum(event_dims) if event_dims else product)
    return total
