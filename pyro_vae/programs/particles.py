"""Samples of the latent variables out of one run of a pair, and what each is worth: the pieces of a log-weight."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae.programs.precision import log_prob_in_float64
from pyro_vae.programs.values import at_inside, is_inside

PARTICLES = "pyro_vae_particles"
"""Name of the outer plate that holds the samples of one vectorized run."""

Site = dict[str, Any]


@dataclass(frozen=True)
class BatchPlate:
    """The plate over data: its name, its dim (negative), the rows it holds and the rows it stands for."""

    name: str
    dim: int
    size: int
    full_size: int


@dataclass(frozen=True)
class LogTerms:
    r"""The pieces of a log-weight, each ``(num_samples, batch)`` in nats."""

    reconstruction: Tensor
    """log p(x | z), all observed sites."""
    log_prior: Tensor
    """log p(z), all latent sites of the model."""
    log_guide: Tensor
    """log q(z | x), all sites of the guide."""

    @staticmethod
    def together(parts: "list[LogTerms]") -> "LogTerms":
        """Put the samples of several runs below one another."""
        if len(parts) == 1:
            return parts[0]
        return LogTerms(
            torch.cat([part.reconstruction for part in parts]),
            torch.cat([part.log_prior for part in parts]),
            torch.cat([part.log_guide for part in parts]),
        )

    @property
    def log_joint(self) -> Tensor:
        """Log p(x, z)."""
        return self.reconstruction + self.log_prior

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x)."""
        return self.log_joint - self.log_guide


@dataclass(frozen=True)
class Particles:
    """One run of a pair, with its samples as a :class:`pyro_vae.programs.layouts.Layout` has them."""

    model_trace: Trace
    guide_trace: Trace
    replayed: Trace
    """What the model took its values from: the guide's trace, or a revision of it."""
    plate: BatchPlate
    particle_dim: int
    """Where an outer plate of samples is, a negative batch dim: left of every plate of the pair."""
    repeats: int = 1
    """How often the batch plate holds the data: once, or once for each sample, one sample's after the other's."""
    subsampled: bool = False
    """Whether such a plate stands for a number of data of its own, which does not follow its copies."""
    args: tuple[Any, ...] = ()
    """What the programs were called with: the data, repeated where the batch plate repeats them."""
    bounded: frozenset[str] = frozenset()
    """Latent sites whose values may lie outside the support of one of the two programs, where its density is 0."""
    wide: bool = False
    """Whether log-probabilities are computed in float64 where the program computes in float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """The number of samples and of data in this run."""
        sites = [*samples(self.guide_trace), *samples(self.model_trace)]
        plates = [f for site in sites for f in site["cond_indep_stack"]]
        num_samples = next((f.size for f in plates if f.name == PARTICLES), 1)
        # A plate made without a size (-1) takes that of what is inside it.
        size = next(f.size for f in plates if f.name == self.plate.name)
        size = size if size >= 0 else sites[0]["fn"].batch_shape[self.plate.dim]
        return num_samples * self.repeats, size // self.repeats

    @property
    def latents(self) -> list[Site]:
        """What the guide draws, auxiliary variables too."""
        return latent_sites(self.guide_trace)

    @property
    def rows(self) -> dict[str, Tensor]:
        """The rows that each subsampled plate took."""
        return subsamples(self.model_trace) | subsamples(self.guide_trace)

    def terms(self, scale_of: Callable[[Site], Any] | None = None) -> LogTerms:
        """Return the log-terms.

        Args:
            scale_of: returns what multiplies a site's log-probability; by default nothing does, whatever scales
                (subsampling, ``poutine.scale``) the site carries.
        """
        reconstruction = self.log_prob(observed_sites(self.model_trace), scale_of)
        log_prior = self.log_prob(latent_sites(self.model_trace), scale_of)
        if self.bounded:
            # What is not defined at a z of density 0 does not count: the weight is 0.
            undefined = (log_prior == -torch.inf) & (reconstruction.isnan() | (reconstruction == torch.inf))
            reconstruction = reconstruction.masked_fill(undefined, -torch.inf)
        return LogTerms(reconstruction, log_prior, self.log_prob(list(samples(self.guide_trace)), scale_of))

    def guide_factors(self) -> Tensor | None:
        """Return the sum of the factors in the guide's density, ``(num_samples, batch)``, if there are any."""
        factors = observed_sites(self.guide_trace)
        return self.log_prob(factors, self.inner_scale) if factors else None

    def scores(self) -> list[tuple[str, Tensor]]:
        """Return, by site, the log-density whose gradient is the score function, ``(num_samples, batch)``.

        A reparameterized site has none. Scales and masks do not enter: they change no law that is drawn from.
        """
        scores = []
        for site in samples(self.guide_trace):
            fn = site["fn"]
            if fn.has_rsample and type(fn).score_parts is TorchDistributionMixin.score_parts:
                continue
            score = fn.score_parts(site["value"], *site["args"], **site["kwargs"]).score_function
            if not is_identically_zero(score):
                scores.append((site["name"], self.per_datum(score)))
        return scores

    def scaled_terms(self) -> tuple[LogTerms, Any]:
        r"""Return the log-terms for a bound that is not linear in them, and the weight of each datum outside it.

        A site's scale is the product of what its plates' subsamples stand for and of a rest r. The batch plate's
        factor, and the r of observed sites, multiply the bound of a datum: its logarithm knows neither how many data
        there are nor how the loss is scaled. The factor of an inner plate, and a latent site's r relative to that of
        the observed ones (as a KL weight), multiply the site's log-probability inside.
        """
        observed = observed_sites(self.model_trace)[0]
        weight = rest_of_scale(observed) * _subsampling(observed) / _subsampling(observed, but=self.plate.name)
        weight = weight * self.repeats if self.subsampled else weight
        if isinstance(weight, Tensor):
            weight = weight.squeeze()
            # The copies of a datum have its weight.
            weight = weight[: len(weight) // self.repeats] if self.repeats > 1 and weight.ndim else weight
        # Of a loss; in the dtype of the parameters, which its gradient has.
        return replace(self, wide=False).terms(self.inner_scale), weight

    def log_prob(self, sites: list[Site], scale_of: Callable[[Site], Any] | None = None) -> Tensor:
        """Sum the sites' masked log-probabilities over all dims but samples and batch.

        Args:
            sites: of one of the two traces.
            scale_of: as for :meth:`terms`.
        """
        total: Tensor | None = None
        for site in sites:
            scale = 1.0 if scale_of is None else scale_of(site)
            log_prob = self.per_datum(scale_and_mask(self._log_prob(site), scale=scale, mask=site["mask"]))
            total = log_prob if total is None else total + log_prob
        if total is None:
            return torch.zeros(self.shape, device=next(samples(self.model_trace))["value"].device)
        return total.expand(self.shape)

    def _log_prob(self, site: Site) -> Tensor:
        """Return a site's log-probability, -inf outside its support whatever its law computes there."""
        fn, value = site["fn"], site["value"]
        if site["name"] not in self.bounded:
            return self._score(site, value)
        inside = is_inside(fn, value, site["mask"])
        return torch.where(inside, self._score(site, at_inside(fn, value, inside)), -torch.inf)

    def _score(self, site: Site, value: Tensor) -> Tensor:
        if self.wide and not site["args"] and not site["kwargs"]:
            return log_prob_in_float64(site["fn"], value)
        return site["fn"].log_prob(value, *site["args"], **site["kwargs"])

    def per_datum(self, values: Tensor) -> Tensor:
        """Sum values ``(*batch_dims)`` of a site over all dims but samples and batch."""
        missing = -self.particle_dim - values.ndim
        if missing > 0:
            values = values.reshape((1,) * missing + tuple(values.shape))
        keep = (0, values.ndim + self.plate.dim)
        rest = [dim for dim in range(values.ndim) if dim not in keep]
        values = values.sum(rest) if rest else values
        # What all data share has one column.
        return values.reshape(self.repeats, -1) if self.repeats > 1 and values.numel() > 1 else values

    def over_batch(self, values: Tensor) -> Tensor:
        """Return values ``(num_samples, batch)`` in a shape that goes with the batch dims of this run's sites."""
        dims = [1] * -self.particle_dim
        dims[self.plate.dim] = -1
        if self.repeats == 1:
            dims[0], dims[self.plate.dim] = values.shape
        return values.reshape(dims)

    def inner_scale(self, site: Site) -> Any:
        """Return what multiplies a site's log-probability inside the bound of a datum."""
        observed = observed_sites(self.model_trace)[0]
        return rest_of_scale(site) / rest_of_scale(observed) * _subsampling(site, but=self.plate.name)


def samples(trace: Trace) -> Iterator[Site]:
    """Iterate over the sample sites of a trace, less subsamples of plates and ``pyro.deterministic`` values."""
    return (
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and not isinstance(site["fn"], _Subsample)
        and not site["infer"].get("_deterministic")
    )


def log_prob_of(site: Site) -> Tensor:
    """Return the log-probability of a site's value, neither scaled nor masked by the site."""
    return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])


def latent_sites(trace: Trace) -> list[Site]:
    """Return the sample sites of a trace that are drawn."""
    return [site for site in samples(trace) if not site["is_observed"]]


def observed_sites(trace: Trace) -> list[Site]:
    """Return the sample sites of a trace that are observed, factors too."""
    return [site for site in samples(trace) if site["is_observed"]]


def subsamples(trace: Trace) -> dict[str, Tensor]:
    """Return the rows that each subsampled plate of a trace took."""
    return {name: site["value"] for name, site in trace.nodes.items() if isinstance(site.get("fn"), _Subsample)}


def same_order(model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether the guide samples the model's latent sites in the model's order."""
    names = [site["name"] for site in latent_sites(model_trace)]
    return names == [site["name"] for site in samples(guide_trace) if site["name"] in names]


def _subsampling(site: Site, but: str | None = None) -> float:
    """Return how many elements each of the site's stands for, by its plates' subsamples."""
    factor = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.name != but and frame.size > 0 and frame.full_size is not None:
            factor *= frame.full_size / frame.size
    return factor


def rest_of_scale(site: Site) -> Any:
    """Return the site's scale less what comes of its plates' subsamples."""
    return site["scale"] / _subsampling(site)
