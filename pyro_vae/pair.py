"""A model and a guide run together: their sites, their batch plate, and whether samples vectorize."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.graph import no_side_effects
from pyro_vae.nonfinite import find_nonfinite
from pyro_vae.programs import as_args, local_params, modules_of
from pyro_vae.protocols import Program
from pyro_vae.sites import PLATE
from pyro_vae.support import discrete_dims

PARTICLES = "pyro_vae_particles"
"""Name of the outer plate that holds the samples of one vectorized run."""

logger = logging.getLogger("pyro_vae")


class FixedRows(Messenger):
    """Makes a subsampled plate take the given rows."""

    def __init__(self, plate: str, rows: Tensor) -> None:
        super().__init__()
        self.plate, self.rows = plate, rows

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.plate and isinstance(msg["fn"], _Subsample):
            msg["value"], msg["done"] = self.rows, True


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

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x)."""
        return self.reconstruction + self.log_prior - self.log_guide


class Pair:
    """A model and a guide that were run together once on some data, to learn their structure.

    Args:
        model: p(x, z), a Pyro program with one vectorized batch plate.
        guide: q(z | x), a Pyro program with the same latent sites in the same plate.
        x: the data, or a tuple of all positional arguments; the first tensor's length is the batch.
        plate: the batch plate's name, needed only where several plates would do.

    Raises:
        PairError: no batch plate can be found, a latent site is outside it, or a latent site is in only one of
            the two.
        ValueError: whatever Pyro's own validation finds.
    """

    def __init__(self, model: Program, guide: Program, x: Any, plate: str | None = None) -> None:
        self.model, self.guide = model, guide
        self._args = as_args(x)
        with pyro.validation_enabled(True), self._quiet(), torch.no_grad():
            model_trace, guide_trace = self._first_traces()
            _check_sites(model_trace, guide_trace)
            with _restated("the sites of model and guide differ in shape"):
                check_model_guide_match(model_trace, guide_trace)
            self.num_rows = _rows(self._args)
            self.plate = _find_plate(model_trace, guide_trace, self.num_rows, plate)
            sites = [*_samples(model_trace), *_samples(guide_trace)]
            depth = max(-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized)
            with warnings.catch_warnings():
                # Whoever uses the weights refuses a NaN, and says at which datum and site.
                warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
                for trace in (model_trace, guide_trace):
                    trace.compute_log_prob()
            for site in sites:
                check_site_shape(site, depth)
        self.latents = [site["name"] for site in _samples(guide_trace) if not site["is_observed"]]
        self.observed = [site["name"] for site in _samples(model_trace) if site["is_observed"]]
        self.normalized = all(_is_normalized(site["fn"]) for site in _samples(model_trace))
        observed = [site for site in _samples(model_trace) if site["is_observed"]]
        self.discrete_dims = discrete_dims(observed, self.plate.size)
        self._particle_dim = -depth - 1

    def terms(self, x: Any, num_samples: int, rows: Tensor | None = None) -> LogTerms:
        """Run the pair on x and return each term of the log-weights, ``(num_samples, plate.size)``.

        Args:
            x: as in the constructor, of any batch size.
            num_samples: samples of the guide.
            rows: for a subsampled plate, the indices it shall take.
        """
        args = as_args(x)
        fix = nullcontext() if rows is None else FixedRows(self.plate.name, rows)
        with fix:
            if self.vectorizes:
                return self._terms(*self._traces(args, num_samples))
            runs = [self._terms(*self._traces(args)) for _ in range(num_samples)]
        return LogTerms(
            torch.cat([run.reconstruction for run in runs]),
            torch.cat([run.log_prior for run in runs]),
            torch.cat([run.log_guide for run in runs]),
        )

    @cached_property
    def vectorizes(self) -> bool:
        """Whether a run with an outer plate of samples gives each sample the weight it has when run alone.

        Decided by doing it: two samples are drawn in one run and each is scored again in a run of its own.
        A pair that fails is run in a loop, which is said once.
        """
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            try:
                model_trace, guide_trace = self._traces(self._args, num_samples=2)
                together = self._terms(model_trace, guide_trace).log_weight
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                reason = str(error).strip().splitlines()[0]
            else:
                alone = torch.cat([self._rescore(guide_trace, k) for k in range(2)])
                # Rounding only: other batch shapes take other kernels, and sums of many terms cancel.
                tolerance = 1e3 * torch.finfo(alone.dtype).eps
                if torch.allclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
                    return True
                reason = "a sample's weight depends on the samples beside it"
        logger.warning("log_weights: samples are run one by one, which is slower: %s", reason)
        return False

    def _quiet(self) -> AbstractContextManager[None]:
        """Leave random number generators and buffers (running means) as they were: a probe is no training step."""
        device = next((arg.device for arg in self._args if isinstance(arg, Tensor)), torch.device("cpu"))
        return no_side_effects(modules_of(self.model, self.guide), device)

    def _first_traces(self) -> tuple[poutine.Trace, poutine.Trace]:
        try:
            return self._traces(self._args)
        except ValueError as error:
            # Pyro's validation refuses a NaN parameter before its distribution reaches a site, and names none.
            try:
                where = find_nonfinite(self.model, self.guide, self._args)
            except ValueError:
                where = None
            if where is None:
                raise
            raise NonFiniteError(f"{where} {error}") from error

    def _rescore(self, guide_trace: poutine.Trace, k: int) -> Tensor:
        """Return the log-weights ``(1, batch)`` of the k-th sample of a vectorized trace, run by itself."""
        alone = guide_trace.copy()
        for name, site in alone.nodes.items():
            if site["type"] == "sample" and not site["is_observed"] and not isinstance(site["fn"], _Subsample):
                value = site["value"]
                dim = value.ndim + self._particle_dim - site["fn"].event_dim
                alone.nodes[name] = {**site, "value": value.select(dim, k) if dim >= 0 else value}
        traces = self._traces(self._args, replayed=alone)
        return self._terms(*traces).log_weight

    def _traces(
        self, args: tuple[Any, ...], num_samples: int | None = None, replayed: poutine.Trace | None = None
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """Return the traces of the model and of the guide that it was replayed against."""
        model, guide = self.model, self.guide
        if num_samples is not None:
            particles = pyro.plate(PARTICLES, num_samples, dim=self._particle_dim)
            model, guide = particles(model), particles(guide)
        if replayed is not None:
            guide = poutine.replay(guide, trace=replayed)
        with local_params(self.model, self.guide):
            guide_trace = poutine.trace(guide).get_trace(*args)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def _terms(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> LogTerms:
        observed = [site for site in _samples(model_trace) if site["is_observed"]]
        latent = [site for site in _samples(model_trace) if not site["is_observed"]]
        size = next(f.size for site in observed + latent for f in site["cond_indep_stack"] if f.name == self.plate.name)
        shape = (self._num_samples(guide_trace), size)
        return LogTerms(
            self._log_prob(observed, shape),
            self._log_prob(latent, shape),
            self._log_prob(list(_samples(guide_trace)), shape),
        )

    def _num_samples(self, trace: poutine.Trace) -> int:
        frames = (f for site in _samples(trace) for f in site["cond_indep_stack"] if f.name == PARTICLES)
        return next((f.size for f in frames), 1)

    def _log_prob(self, sites: list[dict[str, Any]], shape: tuple[int, int]) -> Tensor:
        """Sum the sites' unscaled, masked log-probabilities over all dims but samples and batch."""
        total: Tensor | None = None
        for site in sites:
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            log_prob = scale_and_mask(log_prob, mask=site["mask"])
            missing = -self._particle_dim - log_prob.ndim
            if missing > 0:
                log_prob = log_prob.reshape((1,) * missing + tuple(log_prob.shape))
            keep = (0, log_prob.ndim + self.plate.dim)
            rest = [dim for dim in range(log_prob.ndim) if dim not in keep]
            log_prob = log_prob.sum(rest) if rest else log_prob
            total = log_prob if total is None else total + log_prob
        if total is None:
            return torch.zeros(shape)
        return total.expand(shape)


def _samples(trace: poutine.Trace) -> Iterator[dict[str, Any]]:
    return (
        site for site in trace.nodes.values() if site["type"] == "sample" and not isinstance(site["fn"], _Subsample)
    )


def _rows(args: tuple[Any, ...]) -> int | None:
    tensors = (arg for arg in args if isinstance(arg, Tensor) and arg.ndim > 0)
    return next((len(tensor) for tensor in tensors), None)


def _is_normalized(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return getattr(fn, "normalized", True)


@contextmanager
def _restated(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise PairError(f"{what}: {error}") from error


def _plates(site: dict[str, Any]) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def _listing(trace: poutine.Trace) -> str:
    described = (
        f"{site['name']}{' (observed)' if site['is_observed'] else ''} in "
        f"{', '.join(sorted(_plates(site))) or 'no plate'}"
        for site in _samples(trace)
    )
    return "; ".join(described) or "no sites"


def _both(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> str:
    return f"Model: {_listing(model_trace)}. Guide: {_listing(guide_trace)}."


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    in_model = {site["name"] for site in _samples(model_trace) if not site["is_observed"]}
    in_guide = {site["name"] for site in _samples(guide_trace) if not site["is_observed"]}
    if in_model != in_guide:
        only = [
            f"only in the {where}: {', '.join(sorted(names))}"
            for where, names in (("model", in_model - in_guide), ("guide", in_guide - in_model))
            if names
        ]
        raise PairError(
            f"model and guide must sample the same latent sites; {'; '.join(only)}. {_both(model_trace, guide_trace)}"
        )


def _find_plate(
    model_trace: poutine.Trace, guide_trace: poutine.Trace, rows: int | None, name: str | None
) -> BatchPlate:
    """Return the one vectorized plate that holds every latent and observed site, and has the data's length."""
    sites = [*_samples(model_trace), *_samples(guide_trace)]
    if not any(site["is_observed"] for site in _samples(model_trace)):
        raise PairError(f"the model observes nothing. {_both(model_trace, guide_trace)}")
    frames = {f.name: f for site in sites for f in site["cond_indep_stack"] if f.vectorized}
    shared = set.intersection(*(_plates(site) for site in sites))
    if not shared:
        raise PairError(
            "no batch plate: every latent and observed site must be inside one vectorized pyro.plate over the "
            f"data (`with pyro.plate('data', len(x), dim=-1):`). {_both(model_trace, guide_trace)}"
        )
    if name is not None and name not in shared:
        raise PairError(f"no plate {name!r} holds all sites. {_both(model_trace, guide_trace)}")
    # A plate made without a size (-1) takes the length of what is inside it.
    candidates = {name} if name is not None else {plate for plate in shared if frames[plate].size in (rows, -1)}
    full_sized = {plate for plate in shared if frames[plate].full_size == rows}
    chosen = candidates or full_sized or (shared if rows is None else set())
    if len(chosen) > 1 and PLATE in chosen:
        chosen = {PLATE}
    if len(chosen) != 1:
        sizes = ", ".join(f"{plate} of {frames[plate].size}" for plate in sorted(shared))
        raise PairError(
            f"no single plate matches the data's {rows} rows among {sizes}: pass plate='NAME', or give the plate "
            f"the length of the data. {_both(model_trace, guide_trace)}"
        )
    frame = frames[chosen.pop()]
    if frame.size == -1 and rows is not None:
        return BatchPlate(frame.name, frame.dim, rows, rows)
    return BatchPlate(frame.name, frame.dim, int(frame.size), int(frame.full_size))
