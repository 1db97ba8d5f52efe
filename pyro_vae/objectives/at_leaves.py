r"""Gradients that treat the model's parameters, the samples and the guide's density apart.

The model is run at leaves: copies of the guide's samples that autograd cannot follow back. Then the gradient of
:math:`\log p(x, z)` at the leaves reaches the model's parameters alone, its derivative in z can be weighted anew, and
the chain rule through the samples is completed by hand: z(phi) times a fixed derivative.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.particle_bound import ParticleBound, Sampled
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.pair import Pair, Revision
from pyro_vae.programs.particles import LogTerms, Particles, Site, samples
from pyro_vae.programs.values import spread


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

    def put_together(
        self,
        sampled: Sampled,
        weights: Tensor,
        path_weight: Callable[[Tensor, Any], Any],
        scores: Callable[[Particles, Particles, LogTerms, Tensor], Tensor] | None = None,
    ) -> Tensor:
        r"""Return ``(batch,)`` with two gradients: the model's, and the guide's through its samples alone.

        .. math:: \sum_k a_k \Big(\nabla_\theta \log p(x, z_k) + \sum_i c_{ki}
            \frac{\partial}{\partial z_{ki}} \log w_k \nabla_\phi z_{ki}\Big)

        Factors in the guide (as the reverse model of an auxiliary guide) count with the model.

        Args:
            sampled: the batch.
            weights: a, ``(total_particles, batch)``.
            path_weight: computes c, the weight of the gradient through the samples, from two arguments: a, in a shape
                that broadcasts with a site's elements, and the factor of these elements' log q within the bound (a KL
                weight, a mask).
            scores: computes, from the arguments of :meth:`of_model`, what has the gradient of the guide's density that
                is subtracted beside; by default c accounts for all of it.
        """
        who = type(self).__name__
        sampled.require_reparameterized(who)
        parts = []
        chunks = weights.detach().split([run.shape[0] for run in sampled.runs])
        for run, a in zip(sampled.runs, chunks, strict=True):
            with scoring(who):
                at_leaves = with_guide_at_leaves(who, sampled.pair, run)
                terms, _ = at_leaves.scaled_terms()
                model = self.of_model(run, at_leaves, terms, a)
            path = through_samples(run, weighted(a, terms.log_weight), partial(_path_weight_of, path_weight, run, a))
            parts.append(model + path if scores is None else model + path - scores(run, at_leaves, terms, a))
        return torch.cat(parts).sum(0)

    def of_model(self, run: Particles, at_leaves: Particles, terms: LogTerms, weights: Tensor) -> Tensor:  # noqa: ARG002
        """Return what has the model's gradient, ``(num_samples, batch)``.

        Args:
            run: as it was drawn, with the model at leaves.
            at_leaves: the same with the guide's density at the leaves, too.
            terms: of that, scaled.
            weights: a, ``(num_samples, batch)``, without gradient.
        """
        factors = at_leaves.guide_factors()
        return weighted(weights, terms.log_joint if factors is None else terms.log_joint - factors)


@contextmanager
def scoring(who: str) -> Iterator[None]:
    """Say in one sentence that the guide cannot score a z, where a flow without an inverse is asked to.

    Raises:
        ValueError: in the place of the flow's KeyError or NotImplementedError.
    """
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{who}: scores values that the guide did not just draw, and a flow of this guide has no inverse (planar, "
            f"radial, Sylvester). Use Trace_ELBO or IWAE, or a flow with an inverse."
        ) from error


def _path_weight_of(path_weight: Callable[[Tensor, Any], Any], run: Particles, weights: Tensor, site: Site) -> Any:
    return path_weight(spread(run.over_batch(weights), site["fn"].event_dim), element_scale(run, site))


def element_scale(run: Particles, site: Site) -> Any:
    """Return what multiplies the log-probability of a site's elements inside the bound: its scale, 0 where masked.

    Its shape goes with the value's.
    """
    scale, mask = run.inner_scale(site), element_mask(site)
    scale = spread(scale, site["fn"].event_dim) if isinstance(scale, Tensor) else scale
    return scale if mask is None else scale * mask


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Return the product, which is 0 where the weight is: there the value may be -inf."""
    return weights * torch.where(weights > 0, values, torch.zeros_like(values))


def with_guide_at_leaves(who: str, pair: Pair, run: Particles) -> Particles:
    """Return the run with the guide's density at the leaves, too: at a z that is foreign to it.

    Raises:
        ValueError: the guide has several sites, and another density when it is run again.
    """
    trace = run.replayed
    if len(list(samples(trace))) > 1:
        # One site's law depends on another's value.
        if not pair.guide_repeats:
            raise ValueError(
                f"{who}: scores the guide in a run of its own, and this guide's density changes from run to run "
                f"(dropout?). Put it in eval mode, or use IWAE, which needs one run."
            )
        trace = pair.rerun_guide(run.args, trace)
    return replace(run, guide_trace=trace)


def through_samples(run: Particles, values: Tensor, path_weight: Callable[[Site], Any] = lambda _: 1) -> Tensor:
    """Return ``(num_samples, batch)`` whose gradient is that of ``values`` through the samples alone.

    Args:
        run: with the model at leaves.
        values: what depends on the leaves, of any shape; summed.
        path_weight: returns, for a site, the weight of its gradient, in a shape that broadcasts with its elements.
    """
    total = torch.zeros_like(values)
    for site, slope in zip(run.latents, slopes_at(run, values), strict=True):
        total = total + sum_per_datum(run, site, path_weight(site) * site["value"] * slope)
    return total


def slopes_at(run: Particles, values: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives of the values' sum in the leaf of each site that the guide draws, in its order."""
    leaves = [run.replayed.nodes[site["name"]]["value"] for site in run.latents]
    return torch.autograd.grad(values.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


def along_later_draws(run: Particles, partial: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Return the total derivative in each site that the guide draws, with the noise of later draws fixed.

    It is made of the derivatives at the leaves, ``partial``. None for a draw that has no gradient.
    """
    values = [site["value"] for site in run.latents]
    followed = [value for value in values if value.requires_grad]
    if not followed:
        return [None] * len(values)
    moved = [(slope * value).sum() for slope, value in zip(partial, values, strict=True)]
    found = iter(torch.autograd.grad(sum(moved), followed, retain_graph=True))
    return [next(found) if value.requires_grad else None for value in values]


def sum_per_datum(run: Particles, site: Site, elements: Tensor) -> Tensor:
    """Sum something of a site's elements over all dims but samples and batch."""
    event_dims = tuple(range(-site["fn"].event_dim, 0))
    return run.per_datum(elements.sum(event_dims) if event_dims else elements)
