"""Information in the latent space: active units, KL by unit, mutual information, and the rate-distortion point."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.estimate import Estimate, rounded_mean
from pyro_vae.evaluation.latents.active_units import ActiveUnits
from pyro_vae.evaluation.latents.aggregate_posterior import ForeignDensityError, log_aggregate
from pyro_vae.evaluation.latents.unit_kl import UnitKLError, by_unit, unit_kl
from pyro_vae.evaluation.over_data.latent_draws import LatentDraws, by_datum
from pyro_vae.evaluation.over_data.posterior_means import PosteriorMeans, mean_of_law
from pyro_vae.evaluation.result import Result
from pyro_vae.programs.masks import element_mask
from pyro_vae.programs.particles import Particles, Site
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_number
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count, rounded_error

COLLAPSED = 0.01
"""Nats from the prior, on average over data, below which a unit says nothing of x."""

TERMS = ("reconstruction", "log_prior", "log_guide")
VALUE, DENSITY, RATIO = "value of ", "log-density of ", "log-ratio of "
"""Of a latent site, in the names of a run's numbers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentStatistics(Result):
    """What :func:`latent_statistics` returns; everything in nats, float64, on the CPU."""

    columns = MappingProxyType({"mutual_information": "", "marginal_kl": "", "num_collapsed": ""})

    rate: Estimate
    """KL(q(z | x) || p(z)) of each datum."""
    distortion: Estimate
    """-E_q[log p(x | z)] of each datum."""
    mutual_information: Estimate | None
    """KL(q(z | x_n) || q(z)) of each datum, whose mean is I_q(x; z); None where :attr:`why_not` says why."""
    marginal_kl: Estimate | None
    """E_{q(z | x_n)}[log q(z) - log p(z)] of each datum, whose mean is KL(q(z) || p(z)); None likewise."""
    active_units: ActiveUnits
    """Var_x(E_q[z | x]) of each unit, and which are active."""
    kl_per_unit: Tensor | None = field(repr=False)
    """Mean KL of each unit over the data, ``(latent_dim,)``, which add up to the rate; None likewise. A datum without
    the unit, as a mask hides it, counts as 0 there. Units of :attr:`no_kl` have their part of the rate here."""
    kl_per_unit_errors: Tensor | None = field(repr=False)
    """Monte Carlo standard error of each, ``(latent_dim,)``; 0 but for rounding where the KL is closed."""
    flagged: Tensor = field(repr=False)
    """Data with a NaN or infinite log-weight, ``(N,)``: in no mean, and no member of the aggregate posterior."""
    units: tuple[str, ...] = field(repr=False)
    """Names of the units: the site, and the number in it."""
    why_not: dict[str, str] = field(repr=False)
    """Reasons for the attributes that are None, by their names."""
    num_samples: int
    shares: Tensor | None = field(default=None, repr=False)
    """Share of the data that have each unit, ``(latent_dim,)``; None where no unit is masked."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have log-weights that roundings may move by more than 0.1 nats, ``(N,)``: their terms are off by as
    much, and no standard error says so."""
    rate_by_site: dict[str, Estimate] = field(default_factory=dict, repr=False)
    """E_q[log q(z_s | ...) - log p(z_s | ...)] of each datum, by the name of the latent site s: its part of the rate,
    given the sites that the guide, and those that the model, samples before it."""
    mutual_information_by_site: dict[str, Estimate] = field(default_factory=dict, repr=False)
    """I_q(x; z_s | z_{<s}) by the name of the site, given the sites that the guide samples before it, which add up to
    the mutual information; without sites where that is None."""
    no_kl: tuple[str, ...] = field(default=(), repr=False)
    """Sites whose law in the model follows sites that the guide samples later: their part of the rate, and that of
    their units, is no divergence and may be negative."""

    @property
    def num_members(self) -> int:
        """The data that are not flagged: the log of their number is the most that the mutual information can be."""
        return int((~self.flagged).sum())

    @property
    def collapsed(self) -> Tensor:
        """Which units have collapsed onto the prior, ``(latent_dim,)``.

        Their mean KL is below 0.01 nats, over the data that have them; where units have no KL of their own, they are
        inactive, and the rate is below 0.01 nats for each of them. A unit that all data mask is none that could
        collapse.
        """
        # At a larger rate some units have not collapsed, and these are not known.
        by_rate = self.active_units.inactive & (self.rate.mean < COLLAPSED * len(self.units))
        if self.kl_per_unit is None:
            return by_rate
        small = (self.kl_per_unit if self.shares is None else self.kl_per_unit / self.shares) < COLLAPSED
        without_kl = torch.tensor([unit.rpartition("[")[0] in self.no_kl for unit in self.units])
        return torch.where(without_kl, by_rate, small)

    @property
    def all_collapsed(self) -> bool:
        """Whether all units have: z says nothing of x."""
        return bool((self.collapsed if self.shares is None else self.collapsed | (self.shares == 0)).all())

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Rate, distortion, mutual information, marginal KL and, of several sites, rate and information of each."""
        if len(self.rate_by_site) < 2:
            return super().estimates
        rates = {f"rate[{name}]": part for name, part in self.rate_by_site.items()}
        parts = {f"mutual_information[{name}]": part for name, part in self.mutual_information_by_site.items()}
        return super().estimates | rates | parts

    @property
    def num_collapsed_by_site(self) -> dict[str, int]:
        """How many units of each latent site have collapsed."""
        owners = [unit.rpartition("[")[0] for unit in self.units]
        collapsed = dict.fromkeys(owners, 0)
        for owner, gone in zip(owners, self.collapsed.tolist(), strict=True):
            collapsed[owner] += gone
        return collapsed

    def facts(self) -> dict[str, Any]:
        """Return the numbers of single units, how many data there are, and why something is not known."""
        errors = self.kl_per_unit_errors
        return {
            "active_units": self.active_units.count,
            "collapsed_units": [name for name, gone in zip(self.units, self.collapsed, strict=True) if gone],
            "num_collapsed": int(self.collapsed.sum()),
            "collapsed_by_site": self.num_collapsed_by_site,
            "active_by_site": {name: part.count for name, part in self.active_units.by_site.items()},
            "units": list(self.units),
            "all_collapsed": self.all_collapsed,
            "kl_per_unit_nats": None if self.kl_per_unit is None else self.kl_per_unit.tolist(),
            "no_kl": list(self.no_kl),
            "kl_per_unit_standard_errors": None if errors is None else errors.tolist(),
            "latent_dim": len(self.units),
            "num_samples": self.num_samples,
            "num_members": self.num_members,
            "num_unresolved": int(self.unresolved.sum()),
            "why_not": dict(self.why_not),
        }

    def __str__(self) -> str:
        text = f"rate {_short(self.rate)}{_in_sites(self.rate_by_site)}"
        if self.mutual_information is not None and self.marginal_kl is not None:
            text += (
                f" = mutual information {_short(self.mutual_information)}{_in_sites(self.mutual_information_by_site)} "
                f"of at most log N = {math.log(self.num_members):.2f} + marginal KL {_short(self.marginal_kl)}"
            )
        text += (
            f", distortion {_short(self.distortion)} nats/{self.datum} ({count(self.num_members, self.datum)}, "
            f"{count(self.num_samples, 'sample')} each); {self.active_units.in_words}, "
        )
        text += "all collapsed onto the prior" if self.all_collapsed else f"{int(self.collapsed.sum())} collapsed"
        if self.flagged.any():
            text += f"; {count(int(self.flagged.sum()), self.datum)} with a NaN or infinite weight left out"
        for name, reason in self.why_not.items():
            text += f"; no {name.replace('_', ' ')}: {reason}"
        return f"{text}; {UNRESOLVED}" if self.unresolved.any() else text


def _short(estimate: Estimate) -> str:
    return f"{rounded_mean(estimate.mean)} (s.e. {rounded_error(estimate.standard_error)})"


def _in_sites(parts: dict[str, Estimate]) -> str:
    """Return the parts of several sites in brackets, "" of one."""
    return f" ({', '.join(f'{_short(part)} in {name}' for name, part in parts.items())})" if len(parts) > 1 else ""


def latent_statistics(
    model: Program,
    guide: Program,
    x: Any,
    *,
    num_samples: int = 10,
    threshold: float = 0.01,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> LatentStatistics:
    r"""Measure the information of z about x, and the distance of q from the prior, by unit and in all.

    With the aggregate posterior :math:`q(z) = \frac1N \sum_n q(z | x_n)`, the rate is a sum of two:

    .. math::
        \frac1N \sum_n \mathrm{KL}(q(z | x_n) \| p(z)) = I_q(n; z) + \mathrm{KL}(q(z) \| p(z)), \qquad
        I_q(n; z) = \frac1N \sum_n E_{q(z | x_n)} \Big[\log \frac{q(z | x_n)}{q(z)}\Big] \le \log N

    q(z) is the mixture over exactly the N data given, scored in full. Both parts are therefore plain Monte Carlo means
    over z, unbiased, with standard errors that are exact in expectation. The mutual information is about *which of
    these N* data z came from: near log N it is limited by N, and more data would show more. The cost is N^2
    ``num_samples`` densities: cheap for diagonal Gaussians (two matrix products), but not for flows that are inverted
    dim by dim, which call for fewer data.

    Of several latent sites each has a part in the rate and in the mutual information, which is
    :math:`I_q(n; z_s | z_{<s})` given the sites that the guide samples before it: 0 of a layer that a bottom-up guide
    samples from the layer below alone; of an inner layer of a top-down guide, what the layers above do not say.

    A unit is one number of one latent site. Where q and p are products over units, each has a KL of its own (closed
    where torch knows it, else sampled): its mean over x, and for several sites over the sites before it. Where model
    and guide sample their sites in different orders, :func:`pyro_vae.evaluation.latents.unit_kl.unit_kl` says what the
    part of a unit in the rate is.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim.
        num_samples: draws of z for each datum, at least 2.
        threshold: of the variance of the posterior mean, above which a unit is active.
        plate: the batch plate's name, needed only where several would do.
        seed: of the samples; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        :class:`LatentStatistics`; ``print`` it for one line. Mutual information and marginal KL are None where the
        guide cannot score a z that it did not draw, or the data mask different elements of z; the KLs of units where q
        or p is no product over them; ``why_not`` says so.

    Raises:
        ValueError: ``num_samples`` is below 2, x is empty or not finite, or the batch plate subsamples.
        PairError: model and guide do not fit each other, or have no batch plate.
        NonFiniteError: there is no datum with finite log-weights.

    References:
        M. Hoffman, M. Johnson (2016), *ELBO surgery: yet another way to carve up the variational evidence lower
        bound*, NIPS workshop on advances in approximate Bayesian inference.
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, section 5, arXiv 1509.00519.
        J. Lucas, G. Tucker, R. Grosse, M. Norouzi (2019), *Don't blame the ELBO! A linear VAE perspective on posterior
        collapse*, arXiv 1911.02469: a unit is collapsed where its KL is below some nats for nearly all data, which by
        Markov's inequality a small mean grants.
        A. Alemi et al. (2018), *Fixing a broken ELBO*, arXiv 1711.00464.
    """
    check_number("latent_statistics", "threshold", threshold)
    check_count("latent_statistics", "num_samples", num_samples, 2, ", for there to be a standard error")
    with seeded(seed):
        draws = LatentDraws("latent_statistics", model, guide, x, num_samples, plate, progress)
        draws.pair.require_density(draws.who)
        drawn, rounding = _Drawn(draws), draws.rounding
        members = ~drawn.flagged
        if not members.any():
            raise NonFiniteError(
                f"latent_statistics: a log-weight is NaN or infinite for each of the {draws.size} data."
            )
        aggregate, no_aggregate, information = None, drawn.why_no_kl, {}
        if drawn.repeats:
            try:
                by_prefix = log_aggregate(draws, drawn.values, members, drawn.there)
                aggregate, no_aggregate = by_prefix[-1], None
                # log q(z_s | z_{<s}) of the aggregate posterior: a difference of those of two prefixes.
                steps = by_prefix.diff(dim=0, prepend=torch.zeros_like(by_prefix[:1]))
                log_densities = drawn.log_densities.items()
                information = {name: log_q - step for (name, log_q), step in zip(log_densities, steps, strict=True)}
            except ForeignDensityError as reason:
                no_aggregate = str(reason)
    reasons = {"mutual_information": no_aggregate, "marginal_kl": no_aggregate, "kl_per_unit": drawn.why_no_kl}

    def mean(values: Tensor) -> Estimate:
        return Estimate.of_draws(torch.where(members, values, math.nan), datum=draws.unit)

    kl = kl_errors = None
    if drawn.why_no_kl is None:
        kl = drawn.kl[members].mean(0)
        kl_errors = (drawn.kl_variance[members].sum(0) / num_samples).sqrt() / members.sum()
    there = None if drawn.there is None else drawn.there[members]
    means = PosteriorMeans(drawn.mean[members], drawn.noise[members], drawn.units, num_samples, there)
    return LatentStatistics(
        rate=mean(drawn.log_guide - drawn.log_prior),
        distortion=mean(-drawn.reconstruction),
        mutual_information=None if aggregate is None else mean(drawn.log_guide - aggregate),
        marginal_kl=None if aggregate is None else mean(aggregate - drawn.log_prior),
        active_units=ActiveUnits.of(means, threshold),
        kl_per_unit=kl,
        kl_per_unit_errors=kl_errors,
        flagged=drawn.flagged,
        units=drawn.units,
        why_not={name: reason for name, reason in reasons.items() if reason is not None},
        num_samples=num_samples,
        datum=draws.unit,
        shares=None if there is None else there.double().mean(0),
        unresolved=rounding.lost(drawn.weight.abs().amax(0), slice(None)) & members,
        rate_by_site={name: mean(part) for name, part in drawn.log_ratios.items()},
        mutual_information_by_site={name: mean(part) for name, part in information.items()},
        no_kl=tuple(name for name in drawn.values if name in draws.pair.follows_later),
    )


class _Drawn:
    """All draws of all data, and the numbers that the pair gives them."""

    def __init__(self, draws: LatentDraws) -> None:
        self._pair = draws.pair
        self.why_no_kl: str | None = None
        try:
            self.repeats = draws.pair.guide_repeats
        except (ValueError, KeyError, NotImplementedError):
            # The guide cannot score its own draws. Nor can it score those of other data, and that is reported.
            self.repeats = True
        """Whether the guide's laws are the same in each run."""
        if not self.repeats:
            self.why_no_kl = "the guide, run again with the values it drew, gives them another density"
        blocks: list[list[dict[str, Tensor]]] = []
        for drawn in draws:
            if drawn.samples.start == 0:
                blocks.append([])
            blocks[-1].append(self._numbers(drawn.run))

        def whole(name: str) -> Tensor:
            return torch.cat([torch.cat([part[name] for part in block]) for block in blocks], 1)

        first, count = blocks[0][0], draws.num_samples
        sites = [name.removeprefix(VALUE) for name in first if name.startswith(VALUE)]
        self.reconstruction, self.log_prior, self.log_guide = (whole(name) for name in TERMS)
        self.values = {site: whole(f"{VALUE}{site}") for site in sites}
        """Of each latent site of the model, in the guide's order, ``(num_samples, N, *rest)``."""
        self.log_ratios = {site: whole(f"{RATIO}{site}") for site in sites}
        """Of each of these sites, log q - log p given what comes before it in each, ``(num_samples, N)``."""
        self.log_densities = {site: whole(f"{DENSITY}{site}") for site in sites}
        """Of each of these sites, log q given what comes before it, ``(num_samples, N)``."""
        self.units = tuple(f"{site}[{i}]" for site in sites for i in range(self.values[site][0, 0].numel()))
        self.there = whole("there")[0] if "there" in first else None
        """Which units of which data are not masked, ``(N, units)``; None where no latent site has a mask."""
        flat = torch.cat([value.reshape(count, draws.size, -1).double() for value in self.values.values()], -1)
        exact = whole("mean")[0] if "mean" in first else None
        self.mean = flat.mean(0) if exact is None else exact
        if not self.repeats:
            # Samples of one run share what is drawn beside them, so that their mean is not q's.
            self.mean = torch.full_like(self.mean, math.nan)
        self.noise = flat.var(0) / count if exact is None else torch.zeros_like(exact)
        """E_q[z | x] of each unit, ``(N, units)``, and the Monte Carlo variance of that."""
        if self.why_no_kl is None:
            kl = whole("kl")
            self.kl = kl.sum(0) / count
            self.kl_variance = (kl.square().sum(0) / count - self.kl.square()).clamp(min=0) * count / (count - 1)
            """KL of each unit, ``(N, units)``, and the variance of one draw of it."""
        self.weight = self.reconstruction + self.log_prior - self.log_guide
        self.flagged = (self.weight.isnan() | (self.weight == math.inf)).any(0)

    def _numbers(self, run: Particles) -> dict[str, Tensor]:
        """Return the numbers of one run by name, each ``(num_samples, batch, *rest)``."""
        terms = run.terms()
        sites = {site["name"]: site for site in run.latents if site["name"] in run.model_trace.nodes}
        numbers = {name: getattr(terms, name).double() for name in TERMS}
        # Of a single site without others beside it, the difference of the log-densities is the rate.
        alone = len(run.latents) == 1 and run.guide_factors() is None
        for name, site in sites.items():
            numbers[f"{VALUE}{name}"] = by_datum(run, site, site["value"])
            log_q = terms.log_guide if alone else run.log_prob([site])
            log_p = terms.log_prior if alone else run.log_prob([run.model_trace.nodes[name]])
            numbers[f"{DENSITY}{name}"] = log_q.double()
            numbers[f"{RATIO}{name}"] = (log_q - log_p).double()
        if self._pair.masked:
            numbers["there"] = torch.cat([by_unit(run, site, _there(site)) for site in sites.values()], -1)
        if len(run.latents) == 1 and self.repeats:
            mean = mean_of_law(run.latents[0])
            if mean is not None:
                numbers["mean"] = by_unit(run, run.latents[0], mean).double()
        if self.why_no_kl is None:
            try:
                numbers["kl"] = unit_kl(self._pair, run, list(sites)).double()
            except UnitKLError as reason:
                self.why_no_kl = str(reason)
        return {name: values.expand(run.shape[0], *values.shape[1:]).cpu() for name, values in numbers.items()}


def _there(site: Site) -> Tensor:
    """Return which elements of a site are not masked, of the shape of its value."""
    mask = element_mask(site)
    return torch.ones_like(site["value"], dtype=torch.bool) if mask is None else mask
