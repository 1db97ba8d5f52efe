"""Whether what a guide scores is a density of the latent sites it draws, as a log-weight takes it to be.

A weight p(x, z) / q(z | x) has the mean p(x) only where q is a density in the same variables as p. A point mass is
none, nor is a density with a factor that does not make up for variables of the guide's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Delta, Empirical, ZeroInflatedDistribution
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.programs.coordinates import onto_support
from pyro_vae.programs.laws import core
from pyro_vae.programs.layouts import FixedValues
from pyro_vae.programs.particles import BatchPlate, Site, latent_sites, log_prob_of, observed_sites
from pyro_vae.programs.values import support_of
from pyro_vae.runtime.wording import in_one_line

Run = Callable[[Messenger], Trace]
"""Runs the guide once under a messenger, with no outer plate."""

TOLERANCE = 0.01
"""In nats, and relative: how far a log-density may be from its Jacobian; roundings of float32 are smaller."""


def why_no_density(model_trace: Trace, guide_trace: Trace, plate: BatchPlate, run: Run) -> str | None:
    """Return why the guide has no density of the model's latent sites, and what to do; None where it has one.

    Args:
        model_trace: of the model, replayed against the guide's, with one sample.
        guide_trace: of the guide.
        plate: over the data.
        run: runs the guide again.
    """
    latent = {site["name"]: site for site in latent_sites(model_trace)}
    drawn = {site["name"]: site for site in latent_sites(guide_trace)}
    factors = observed_sites(guide_trace)
    extra = {
        name: site for name, site in drawn.items() if name not in latent and not isinstance(core(site["fn"]), Delta)
    }
    points = {}
    for name, site in drawn.items():
        if name not in latent:
            if isinstance(core(site["fn"]), Delta) and log_prob_of(site).any():
                return f"its own site {name!r} is a point mass with a log_density. {_NO_POINT}"
            continue
        reason = _mismatch(name, latent[name], site)
        if reason is not None:
            return reason
        if isinstance(core(site["fn"]), Delta) and not isinstance(core(latent[name]["fn"]), Delta):
            points[name] = site
    if points:
        try:
            return _no_change_of_variables(points, extra, factors, latent, drawn, plate, run)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            # A guide that autograd cannot follow, or a support that no map leads onto.
            reason = f"site {_names(points)} is a point mass, and its Jacobian is not known ({in_one_line(error)})"
            return f"{reason}. {_NO_POINT}"
    if factors:
        return _no_reverse_density(factors, extra, drawn, run)
    if extra:
        return (
            f"it draws {_names(extra)} beside the model's latent sites and has no reverse density r({', '.join(extra)} "
            f"| z, x) to make up for it. Add it: pyro.factor('reverse', -r.log_prob(...), has_rsample=True)"
        )
    return None


_NO_POINT = (
    "A point mass (AutoDelta, MAP) has no density and no bound: fit it with Trace_ELBO, and evaluate a guide that has "
    "a density, as AutoNormal or MeanFieldGuide"
)


def _mismatch(name: str, of_model: Site, of_guide: Site) -> str | None:
    """Return why the densities of one site in model and guide are not in the same variable."""
    p, q = of_model["fn"], of_guide["fn"]
    for where, fn in (("guide", q), ("model", p)):
        mixed = _with_atoms(fn)
        if mixed is not None:
            return f"site {name!r} of the {where} puts mass on single points ({mixed}), and has no density there"
    if isinstance(core(p), Delta):
        if not isinstance(core(q), Delta):
            return (
                f"site {name!r} is a point mass in the model, which no draw of the guide hits. Make it "
                f"pyro.deterministic in the model, or the same Delta in the guide"
            )
        if not torch.equal(*torch.broadcast_tensors(log_prob_of(of_model), log_prob_of(of_guide))):
            return (
                f"site {name!r} is a point mass in model and guide, but not the same one, or with another log_density. "
                f"Make it pyro.deterministic in the model"
            )
        return None
    supports = support_of(p), support_of(q)
    if None in supports or isinstance(core(q), Delta):
        return None
    in_model, in_guide = ("discrete" if support.is_discrete else "continuous" for support in supports)
    if in_model != in_guide:
        return f"site {name!r} is {in_model} in the model and {in_guide} in the guide. Give both laws of one kind"
    return None


def _no_change_of_variables(
    points: Mapping[str, Site],
    extra: Mapping[str, Site],
    factors: list[Site],
    latent: Mapping[str, Site],
    drawn: Mapping[str, Site],
    plate: BatchPlate,
    run: Run,
) -> str | None:
    """Return why point masses are no invertible function of the guide's own variables, scored as such.

    Pyro's AutoNormal, AutoContinuous and EasyGuide draw u and give z(u) as a Delta whose ``log_density`` is
    -log |det dz/du|; then log q(u) plus that is the density of z.
    """
    if not extra or not all(site["value"].is_floating_point() for site in extra.values()):
        return f"site {_names(points)} is a point mass. {_NO_POINT}"
    if factors:
        return f"{_no_density(factors[0])}: a guide of point masses is a change of variables and has no other factor"
    # What else the guide draws stays where it is.
    values = {name: site["value"].detach() for name, site in drawn.items() if name not in points}
    leaves = {name: values[name].clone().requires_grad_() for name in extra}
    with torch.enable_grad():
        trace = run(FixedValues(values | leaves))
        scored, volumes, slopes = [], [], {}
        for name in points:
            site = trace.nodes[name]
            transform = onto_support(latent[name]["fn"])
            u = transform.inv(site["value"])
            scored.append(_by_datum(log_prob_of(site), site, plate, event=0).sum(-1).detach())
            volume = transform.log_abs_det_jacobian(u, site["value"]).detach()
            volumes.append(_by_datum(volume, site, plate, event=volume.ndim - len(site["fn"].batch_shape)).sum(-1))
            flat = _by_datum(u, site, plate, event=site["fn"].event_dim)
            slopes[name] = _slopes(flat, list(extra.values()), list(leaves.values()), plate)
    fixed = {name: points[name] for name, slope in slopes.items() if not slope.any()}
    jacobian = torch.cat(list(slopes.values()), 1)
    if fixed or jacobian.shape[1] != jacobian.shape[2]:
        return f"site {_names(fixed or points)} is a point mass. {_NO_POINT}"
    expected = -(torch.stack(volumes).sum(0) + torch.linalg.slogdet(jacobian)[1])
    error = (torch.stack(scored).sum(0) - expected).abs()
    if (error <= TOLERANCE * (1 + expected.abs())).all():
        return None
    return (
        f"site {_names(points)} is a function of {_names(extra)}, and its Delta's log_density is not minus the log of "
        f"the Jacobian's determinant (off by up to {error.max():.3g} nats). Give Delta that log_density"
    )


def _slopes(flat: Tensor, extra: list[Site], leaves: list[Tensor], plate: BatchPlate) -> Tensor:
    """Return the derivatives of ``flat`` ``(batch, dim)`` in the leaves of its own datum, ``(batch, dim, own dim)``."""
    rows = []
    for column in flat.sum(0):
        slopes: Sequence[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        if column.requires_grad:
            slopes = torch.autograd.grad(column, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        parts = [_by_datum(g, site, plate, site["fn"].event_dim) for g, site in zip(slopes, extra, strict=True)]
        rows.append(torch.cat(parts, -1))
    return torch.stack(rows, 1)


def _no_reverse_density(
    factors: list[Site], extra: Mapping[str, Site], drawn: Mapping[str, Site], run: Run
) -> str | None:
    """Return why factors are no reverse density of the guide's own variables.

    A factor is taken for one where it is the only one and follows those variables, the model's latent sites fixed.
    """
    reason = (
        f"{_no_density(factors[-1])} (a classification loss, a penalty?). Leave it out of the evaluation: "
        f"poutine.block(guide, hide=[{factors[-1]['name']!r}])"
    )
    if not extra or len(factors) > 1:
        return reason
    # Drawn here, since a guide that is replayed would take the values that it has.
    others = {name: site["fn"].sample() for name, site in extra.items()}
    again = run(FixedValues({name: site["value"] for name, site in drawn.items()} | others))
    before, after = log_prob_of(factors[0]), log_prob_of(again.nodes[factors[0]["name"]])
    return reason if before.shape == after.shape and torch.equal(before, after) else None


def _no_density(site: Site) -> str:
    return f"what it observes or adds as {site['name']!r} is no part of a density of z"


def _with_atoms(fn: Any) -> str | None:
    """Name the law, other than a Delta, that puts mass on single points; None where there is none."""
    if isinstance(fn, Empirical):
        return type(fn).__name__
    if isinstance(fn, ZeroInflatedDistribution):
        return None if support_of(fn.base_dist).is_discrete else type(fn).__name__
    if hasattr(fn, "base_dist"):
        return _with_atoms(fn.base_dist)
    parts = [part for value in vars(fn).values() for part in (value if isinstance(value, list | tuple) else [value])]
    for part in parts:
        if isinstance(part, Distribution):
            inner = core(part)
            if isinstance(inner, Delta) or _with_atoms(part) is not None:
                return f"{type(fn).__name__} of {type(inner).__name__}"
    return None


def _by_datum(values: Tensor, site: Site, plate: BatchPlate, event: int) -> Tensor:
    """Return values of a site's batch shape and ``event`` dims behind it as ``(batch, rest)``."""
    batch = site["fn"].batch_shape
    values = values.expand(batch + values.shape[values.ndim - event :])
    return values.movedim(len(batch) + plate.dim, 0).reshape(batch[plate.dim], -1)


def _names(sites: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in sites)
