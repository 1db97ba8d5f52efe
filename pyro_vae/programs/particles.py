"""Samples of the latent variables out of one run of a pair, and what each is worth: the pieces of a log-weight."""

from collections.abc import Iterator
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
        return self.reconstruction + self.log_prior - self.log_guide


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
        return [site for site in samples(self.guide_trace) if not site["is_observed"]]

    def terms(self) -> LogTerms:
        """Return the log-terms as they are, whatever scales (subsampling, ``poutine.scale``) the sites carry."""
        model, guide = ([1.0 for _ in samples(trace)] for trace in (self.model_trace, self.guide_trace))
        return self._sum(model, guide)

    def guide_factors(self) -> Tensor | None:
        """Return the sum of the factors in the guide's density, ``(num_samples, batch)``, if there are any."""
        factors = [site for site in samples(self.guide_trace) if site["is_observed"]]
        return self.log_prob(factors, [self.inner_scale(site) for site in factors]) if factors else None

    def scores(self) -> list[tuple[str, Tensor]]:
        """Return, by site, what the guide's density owes the score function's gradient, ``(num_samples, batch)``.

        Of a reparameterized site, nothing. Neither scales nor masks enter: they change no law that is drawn from.
        """
        found = []
        for site in samples(self.guide_trace):
            fn = site["fn"]
            if fn.has_rsample and type(fn).score_parts is TorchDistributionMixin.score_parts:
                continue
            score = fn.score_parts(site["value"], *site["args"], **site["kwargs"]).score_function
            if not is_identically_zero(score):
                found.append((site["name"], self.per_datum(score)))
        return found

    def scaled_terms(self) -> tuple[LogTerms, Any]:
        r"""Return the log-terms for a bound that is not linear in them, and the weight of each datum outside it.

        A site's scale is the product of what its plates' subsamples stand for and of a rest r. The batch plate's
        factor, and the r of observed sites, multiply the bound of a datum: its logarithm knows neither how many data
        there are nor how the loss is scaled. The factor of an inner plate, and a latent site's r relative to that of
        the observed ones (as a KL weight), multiply the site's log-probability inside.
        """
        model, guide = list(samples(self.model_trace)), list(samples(self.guide_trace))
        observed = next(site for site in model if site["is_observed"])
        inner_model, inner_guide = ([self.inner_scale(site) for site in sites] for sites in (model, guide))
        weight = rest_of_scale(observed) * _subsampling(observed) / _subsampling(observed, but=self.plate.name)
        weight = weight * self.repeats if self.subsampled else weight
        if isinstance(weight, Tensor):
            weight = weight.squeeze()
            # The copies of a datum have its weight.
            weight = weight[: len(weight) // self.repeats] if self.repeats > 1 and weight.ndim else weight
        # Of a loss; in the dtype of the parameters, which its gradient has.
        return replace(self, wide=False)._sum(inner_model, inner_guide), weight

    def log_prob(self, sites: list[Site], scales: list[Any]) -> Tensor:
        """Sum the sites' masked, scaled log-probabilities over all dims but samples and batch."""
        total: Tensor | None = None
        for site, scale in zip(sites, scales, strict=True):
            log_prob = self._log_prob(site)
            log_prob = scale_and_mask(log_prob, scale=scale, mask=site["mask"])
            log_prob = self.per_datum(log_prob)
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

    def _sum(self, model_scales: list[Any], guide_scales: list[Any]) -> LogTerms:
        model = list(zip(samples(self.model_trace), model_scales, strict=True))
        observed = [pair for pair in model if pair[0]["is_observed"]]
        latent = [pair for pair in model if not pair[0]["is_observed"]]
        reconstruction, log_prior = self.log_prob(*_unzip(observed)), self.log_prob(*_unzip(latent))
        if self.bounded:
            # What is not defined at a z of density 0 does not count: the weight is 0.
            undefined = (log_prior == -torch.inf) & (reconstruction.isnan() | (reconstruction == torch.inf))
            reconstruction = reconstruction.masked_fill(undefined, -torch.inf)
        return LogTerms(reconstruction, log_prior, self.log_prob(list(samples(self.guide_trace)), guide_scales))

    def inner_scale(self, site: Site) -> Any:
        """Return what multiplies a site's log-probability inside the bound of a datum."""
        observed = next(site for site in samples(self.model_trace) if site["is_observed"])
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


def subsamples(trace: Trace) -> dict[str, Tensor]:
    """Return the rows that each subsampled plate of a trace took."""
    return {name: site["value"] for name, site in trace.nodes.items() if isinstance(site.get("fn"), _Subsample)}


def same_order(model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether the guide samples the model's latent sites in the model's order."""
    names = [site["name"] for site in samples(model_trace) if not site["is_observed"]]
    return names == [site["name"] for site in samples(guide_trace) if site["name"] in names]


def _unzip(pairs: list[tuple[Site, Any]]) -> tuple[list[Site], list[Any]]:
    return [site for site, _ in pairs], [scale for _, scale in pairs]


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
