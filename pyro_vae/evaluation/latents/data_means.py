"""Means of p(x | z) of any pair: at draws from the prior, at draws from the guide, along one latent unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.evaluation.over_data.posterior_means import mean_of_law, posterior_means
from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.programs.coordinates import is_circular
from pyro_vae.programs.modules import local_params, plain_errors
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import Site, samples
from pyro_vae.programs.values import support_of
from pyro_vae.protocols import Program
from pyro_vae.runtime.roundings import agree

PRIOR_DRAWS = 10_000
"""Draws that the quantiles of the prior are taken of."""

BLOCK = 1000
"""Draws from the prior in one run of the model."""


@dataclass(frozen=True, eq=False)
class Traversal:
    """What :func:`traverse` returns."""

    means: Tensor
    """Means of p(x | z), ``(units, quantiles, *x_shape)``."""
    units: tuple[str, ...]
    """The unit of each row, as ``z[0]``."""
    left_out: dict[str, str]
    """Units that cannot be moved by themselves, and why."""


def prior_means(model: Program, x: Any, num_draws: int) -> Tensor:
    """Return means of p(x | z) at draws from the prior, ``(num_draws, *x_shape)``.

    Args:
        model: p(x, z).
        x: data ``(N, ...)``, or a tuple of all positional arguments. The data give the shape alone; draw n has the
            other arguments of datum n.
        num_draws: how many draws.

    Raises:
        ValueError: as for :func:`reconstruction_means`.
    """
    rows = Rows("prior_means", x, model)
    args = rows.take(torch.arange(num_draws) % rows.size)
    return _data_mean("prior_means", _run(rows, model, args), args[0])


def reconstruction_means(model: Program, guide: Program, x: Any) -> Tensor:
    """Return means of p(x | z) at one draw z ~ q(z | x) of each datum, ``(N, *x_shape)``.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments that starts with them.

    Raises:
        ValueError: the model observes no site of the data's shape, or several, or its law has no mean.
    """
    rows = Rows("reconstruction_means", x, model, guide)
    args = rows.take(slice(None))
    drawn = _run(rows, guide, args)
    return _data_mean("reconstruction_means", _run(rows, poutine.replay(model, trace=drawn), args, model), args[0])


def traverse(
    model: Program, guide: Program, x: Any, units: Sequence[int], quantiles: Tensor, *, num_samples: int = 100
) -> Traversal:
    """Move one latent unit after another through the quantiles of its prior, and return the means of p(x | z).

    Each row starts from the posterior of the first datum: a site is held at its posterior mean, or at one draw from the
    guide where that mean is no value of the site (a category, an angle). A site whose law in the model depends on the
    unit that is moved takes the mean of that law. In a model of several layers, a unit of an upper layer therefore
    moves the layers below it.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments; the first datum is where rows start.
        units: numbers of units, in the order of :func:`pyro_vae.evaluation.active_units`.
        quantiles: probabilities, increasing, in (0, 1). The quantiles are those of 10 000 draws from the prior.
        num_samples: draws for the posterior mean, where the guide has no closed one.

    Raises:
        ValueError: as for :func:`reconstruction_means`.
        PairError: model and guide take all data at once and no other number of them.
    """
    who = "traverse"
    rows = Rows(who, x, model, guide)
    first = rows.take(slice(0, 1))
    several = rows.take(torch.zeros(len(quantiles), dtype=torch.long))
    rows.refuse_whole("a traversal repeats one of them")
    means = posterior_means(who, guide, first, None, num_samples)
    dim = Pair(model, guide, rows.take(slice(0, 3))).plate.dim
    draw, prior = _run(rows, guide, first), _prior_draws(rows, model, dim)
    names = [unit.rpartition("[")[0] for unit in means.units]
    held = {}
    for name in dict.fromkeys(names):
        chosen = [index for index, owner in enumerate(names) if owner == name]
        held[name] = _held(draw.nodes[name], means.mean[0, chosen], dim)
    images, shown, left_out = [], [], {}
    for unit in units:
        name = names[unit]
        index = unit - names.index(name)
        along = _Along(name, index, held, _quantiles(prior[name][:, index], quantiles), dim)
        trace = _run(rows, along(model), several, model)
        if along.why_not is None:
            images.append(_data_mean(who, trace, several[0]))
            shown.append(means.units[unit])
        else:
            left_out[means.units[unit]] = along.why_not
    empty = several[0].new_zeros(0, len(quantiles), *several[0].shape[1:])
    return Traversal(torch.stack(images) if images else empty, tuple(shown), left_out)


class _Along(Messenger):
    """Gives latent sites the values of one row: one unit moves, the others are held or follow it.

    Args:
        name: the site of the unit.
        index: of the unit in the site.
        held: value of each site for one datum, ``(*rest)``.
        values: of the unit, ``(steps,)``.
        dim: of the batch plate, a negative batch dim.
    """

    def __init__(self, name: str, index: int, held: dict[str, Tensor], values: Tensor, dim: int) -> None:
        super().__init__()
        self._name, self._index, self._held, self._values, self._dim = name, index, held, values, dim
        self.why_not: str | None = None
        """Why the unit cannot be moved by itself; None where it can."""

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self._held:
            return
        fn, steps = msg["fn"], len(self._values)
        dim = len(fn.batch_shape) + self._dim
        value = self._held[name].expand(steps, *self._held[name].shape).clone()
        if name == self._name:
            value.view(steps, -1)[:, self._index] = self._values.to(value)
        value = value.movedim(0, dim)
        if name == self._name:
            self.why_not = _why_outside(msg, value)
        elif self.why_not is None and _follows(fn, value, dim):
            mean = None if not value.is_floating_point() else mean_of_law({"fn": fn, "value": value})
            if mean is None or _why_outside(msg, mean) is not None:
                self.why_not = f"site {name!r} follows it, and the mean of its law is no value of the site"
            else:
                value = mean.expand(value.shape)
        msg["value"], msg["done"] = value, True


def _why_outside(msg: Any, value: Tensor) -> str | None:
    """Return why values are none of a site's law; None where they are, or where the law does not say its support."""
    if support_of(msg["fn"]) is None or bool(msg["fn"].support.check(value).all()):
        return None
    return f"a value of site {msg['name']!r} lies in {support_of(msg['fn'])}, which moving one number alone would leave"


def _follows(fn: Any, value: Tensor, dim: int) -> bool:
    """Return whether a law differs from step to step, by the density that it gives one value."""
    density = fn.log_prob(value)
    eps = torch.finfo(density.dtype).eps
    return not agree(density, density.narrow(dim, 0, 1).expand_as(density), roundings=1000, eps=eps)


def _held(site: Site, mean: Tensor, dim: int) -> Tensor:
    """Return the value that a site is held at: its posterior mean, or the guide's draw where the mean is no value."""
    fn, draw = site["fn"], _by_datum(site, dim)[0]
    mean = mean.reshape(draw.shape).to(draw)
    if support_of(fn) is None:
        return mean
    discrete = fn.support.is_discrete or is_circular(fn) or not mean.isfinite().all()
    return draw if discrete or not fn.support.check(mean).all() else mean


def _by_datum(site: Site, dim: int) -> Tensor:
    """Return a site's value as ``(batch, *rest)``."""
    fn = site["fn"]
    return site["value"].expand(fn.batch_shape + fn.event_shape).movedim(len(fn.batch_shape) + dim, 0)


def _prior_draws(rows: Rows, model: Program, dim: int) -> dict[str, Tensor]:
    """Return draws from the prior, ``(PRIOR_DRAWS, units)``, by latent site."""
    args = rows.take(torch.zeros(BLOCK, dtype=torch.long))
    draws: dict[str, list[Tensor]] = {}
    for _ in range(PRIOR_DRAWS // BLOCK):
        for site in samples(_run(rows, model, args)):
            if not site["is_observed"]:
                draws.setdefault(site["name"], []).append(_by_datum(site, dim).reshape(BLOCK, -1))
    return {name: torch.cat(values) for name, values in draws.items()}


def _quantiles(draws: Tensor, quantiles: Tensor) -> Tensor:
    """Return quantiles of draws; of whole numbers, the nearest draws."""
    if draws.is_floating_point():
        return draws.quantile(quantiles.to(draws))
    return draws.double().quantile(quantiles.to(draws.device).double(), interpolation="nearest").to(draws.dtype)


def _run(rows: Rows, program: Program, args: tuple[Any, ...], owner: Program | None = None) -> poutine.Trace:
    """Return the trace of a program, or of a change of ``owner``, in evaluation mode."""
    with rows.at_rest(), local_params(owner or program), plain_errors("figures", "the program"):
        return poutine.trace(program).get_trace(*args)


def _data_mean(who: str, trace: poutine.Trace, x: Tensor) -> Tensor:
    """Return the mean of the law of the observed site that has the data's shape."""
    sites = [site for site in samples(trace) if site["is_observed"]]
    of_data = [site for site in sites if site["value"].shape == x.shape]
    if len(of_data) != 1:
        shapes = ", ".join(f"{site['name']} {tuple(site['value'].shape)}" for site in sites)
        raise ValueError(
            f"{who}: the model must observe one site of the data's shape {tuple(x.shape)}, whose mean is shown; it "
            f"observes {shapes or 'none'}."
        )
    mean = mean_of_law(of_data[0])
    if mean is None:
        raise ValueError(
            f"{who}: the law of the observed site {of_data[0]['name']!r} ({type(of_data[0]['fn']).__name__}) has no "
            f"mean to show."
        )
    return mean.expand(x.shape)
