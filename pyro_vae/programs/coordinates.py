"""Maps from the reals onto where a law's density is normalized, which is not always the support that it declares."""

import math
from typing import Any

from pyro import distributions as dist
from torch.distributions import MixtureSameFamily, TransformedDistribution, biject_to, constraints
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from pyro_vae.programs.laws import elementwise, unwrapped
from pyro_vae.programs.values import same_support, support_of

CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
"""Laws of angles: declared on the reals, they repeat there, and are densities on an interval of 2 pi alone."""

ROUNDED = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)
"""Laws whose draws are rounded, with the density of what they were before."""

CIRCLE = constraints.interval(-math.pi, math.pi)
"""Where such laws draw."""


def innermost(fn: Any) -> Any:
    """Return a law without what only shapes or masks it; of a mixture, that of its components."""
    fn = unwrapped(fn)
    while isinstance(fn, MixtureSameFamily):
        fn = unwrapped(fn.component_distribution)
    return fn


def is_circular(fn: Any) -> bool:
    """Whether a law's draws are angles from -pi to pi, and its density repeats beyond them."""
    return isinstance(innermost(fn), CIRCULAR)


def onto_support(fn: Any) -> Any:
    """Return a map from the reals onto the support of a law.

    The support is the declared one, but for laws of angles, which have the interval from -pi to pi, and for laws
    pushed through maps that declare more than what comes out of them (as an exponential variable that is shifted):
    these are mapped onto the support before, and then as they are.

    Raises:
        NotImplementedError: there is no such map, as for a sphere.
    """
    law = innermost(fn)
    if isinstance(law, CIRCULAR):
        return biject_to(constraints.independent(CIRCLE, fn.event_dim) if fn.event_dim else CIRCLE)
    if _declares_too_much(law):
        inner = ComposeTransform([onto_support(law.base_dist), *law.transforms])
        dims = fn.event_dim - inner.codomain.event_dim
        return IndependentTransform(inner, dims) if dims else inner
    support = fn.support
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    return biject_to(support)


def stays_on_circle(site: Any) -> bool:
    """Whether a guide's site draws angles from -pi to pi, as far as its law or its draws tell."""
    law = innermost(site["fn"])
    if isinstance(law, CIRCULAR):
        return True
    unbounded = support_of(law) is constraints.real and not isinstance(law, TransformedDistribution)
    return not unbounded and bool((site["value"].abs() <= math.pi * (1 + 1e-6)).all())


def _declares_too_much(law: Any) -> bool:
    # A law with a support of its own knows it.
    if not isinstance(law, TransformedDistribution) or type(law).support is not TransformedDistribution.support:
        return False
    base = law.base_dist
    support = support_of(base)
    if is_circular(base) or _declares_too_much(innermost(base)):
        return True
    for transform in law.transforms:
        if not same_support(support, elementwise(transform.domain)):
            return True
        support = elementwise(transform.codomain)
    return False
