"""A model and a guide run together: their sites, their batch plate, and whether samples vectorize."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.graph import no_side_effects
from pyro_vae.memory import is_out_of_memory
from pyro_vae.noise import RecordedNoise, ReplayedNoise
from pyro_vae.nonfinite import find_nonfinite
from pyro_vae.particles import (
    PARTICLES,
    LogTerms,
    Particles,
    Site,
    rest_of_scale,
    same_order,
    samples,
    subsamples,
)
from pyro_vae.programs import as_args, local_params, modules_of
from pyro_vae.protocols import Program
from pyro_vae.structure import check_sites, find_plate
from pyro_vae.support import discrete_dims

logger = logging.getLogger("pyro_vae")

Revision = Callable[[poutine.Trace], poutine.Trace]


def unchanged(trace: poutine.Trace) -> poutine.Trace:
    """Return the trace itself."""
    return trace


class FixedRows(Messenger):
    """Makes subsampled plates take the given rows, by the plate's name."""

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample) and msg["name"] in self.rows:
            msg["value"], msg["done"] = self.rows[msg["name"]], True


class Pair:
    """A model and a guide that were run together once on some data, to learn their structure.

    Args:
        model: p(x, z), a Pyro program with one vectorized batch plate.
        guide: q(z | x), a Pyro program with the same latent sites in the same plate.
        x: the data, or a tuple of all positional arguments; the first tensor's length is the batch.
        plate: the batch plate's name, needed only where several plates would do.
        local: whether modules keep their parameters to themselves; else the caller decides, as Pyro's SVI does.

    Raises:
        PairError: no batch plate can be found, a latent site is outside it, or a latent site is in only one of
            the two.
        ValueError: whatever Pyro's own validation finds.
    """

    def __init__(self, model: Program, guide: Program, x: Any, plate: str | None = None, *, local: bool = True) -> None:
        self.model, self.guide = model, guide
        self._local = local
        self._args = as_args(x)
        with pyro.validation_enabled(True), self._quiet(), torch.no_grad():
            model_trace, guide_trace, _ = map(prune_subsample_sites, self._first_traces())
            check_sites(model_trace, guide_trace)
            with _restated("the sites of model and guide differ in shape"):
                check_model_guide_match(model_trace, guide_trace)
            self.num_rows = _rows(self._args)
            self.plate = find_plate(model_trace, guide_trace, self.num_rows, plate)
            sites = [*samples(model_trace), *samples(guide_trace)]
            depth = max(-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized)
            with warnings.catch_warnings():
                # Whoever uses the weights refuses a NaN, and says at which datum and site.
                warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
                for trace in (model_trace, guide_trace):
                    trace.compute_log_prob()
            for site in sites:
                check_site_shape(site, depth)
        self.normalized = all(_is_normalized(site["fn"]) for site in samples(model_trace))
        observed = [site for site in samples(model_trace) if site["is_observed"]]
        self.discrete_dims = discrete_dims(observed, self.plate.size)
        latent = [site for site in samples(guide_trace) if not site["is_observed"]]
        self.same_order = same_order(model_trace, guide_trace)
        self.scales_agree = all(_equal(rest_of_scale(site), rest_of_scale(observed[0])) for site in observed)
        self.latent_scales_agree = all(
            _equal(site["scale"], latent[0]["scale"]) and _equal(_mask(site), _mask(latent[0])) for site in latent
        )
        self.outputs = max(map(_largest_parameter, observed)) // self.plate.size
        self.particle_dim = -depth - 1
        """Where an outer plate of samples goes, a negative batch dim."""

    def run(self, x: Any, num_samples: int, rows: Tensor | None = None, at: Revision = unchanged) -> list[Particles]:
        """Run the pair on x: once where samples vectorize, else once for each sample.

        Args:
            x: as in the constructor, of any batch size.
            num_samples: samples of the guide.
            rows: for a subsampled plate, the indices it shall take.
            at: makes the trace whose values the model takes out of the guide's.
        """
        args = as_args(x)
        with nullcontext() if rows is None else FixedRows({self.plate.name: rows}):
            if self.vectorizes:
                return [self._run(args, num_samples, at=at)]
            first = self._run(args, at=at)
            # All samples of a datum are of the same datum.
            with FixedRows(subsamples(first.model_trace) | subsamples(first.guide_trace)):
                return [first, *(self._run(args, at=at) for _ in range(num_samples - 1))]

    @cached_property
    def guide_repeats(self) -> bool:
        """Whether the guide, run again with the values it drew, gives them the density it gave before.

        One with dropout does not, whose later run drops other units.
        """
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            first = self._run(self._args)
            with FixedRows(subsamples(first.guide_trace)):
                again = self.rerun_guide(self._args, first.guide_trace)
            before, after = first.terms().log_guide, replace(first, guide_trace=again).terms().log_guide
        return _same_but_for_rounding(before, after)

    def rerun_guide(self, x: Any, trace: poutine.Trace) -> poutine.Trace:
        """Run the guide on x with the values, and as many samples, as a trace of it holds."""
        frames = (f for site in samples(trace) for f in site["cond_indep_stack"] if f.name == PARTICLES)
        guide = self._outer(next((f.size for f in frames), None))(self.guide)
        with self._local_params():
            return poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*as_args(x))

    def terms(self, x: Any, num_samples: int, rows: Tensor | None = None) -> LogTerms:
        """Run the pair on x and return each term of the log-weights, ``(num_samples, plate.size)``.

        Args: as for :meth:`run`.
        """
        return LogTerms.together([particles.terms() for particles in self.run(x, num_samples, rows)])

    @cached_property
    def vectorizes(self) -> bool:
        """Whether a run with an outer plate of samples gives each sample the weight it has when run alone.

        Decided by doing it: two samples are drawn in one run, and each is run alone, from the same noise or, where
        alone it asks for other noise, with the same values. A pair that fails is run in a loop, which is said once.
        """
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            try:
                with RecordedNoise() as noise:
                    particles = self._run(self._args, num_samples=2)
                together = particles.terms().log_weight
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0]
            else:
                if self._same_alone(together, particles, noise.draws):
                    return True
                reason = "a sample's weight depends on the samples beside it"
        logger.warning("samples of this pair are run one by one, which is slower: %s", reason)
        return False

    def _quiet(self) -> AbstractContextManager[None]:
        """Leave random number generators and buffers (running means) as they were: a probe is no training step."""
        return no_side_effects(modules_of(self.model, self.guide))

    def _first_traces(self) -> tuple[poutine.Trace, poutine.Trace, poutine.Trace]:
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

    def _same_alone(self, together: Tensor, particles: Particles, draws: list[Tensor]) -> bool:
        """Whether each sample of a run with two has the same weight when it is run by itself."""

        def from_noise(k: int) -> Particles:
            with ReplayedNoise(draws, k):
                return self._run(self._args)

        def from_values(k: int) -> Particles:
            return self._run(self._args, replayed=self._select(particles.guide_trace, k))

        for alone in (from_noise, from_values):
            try:
                weights = torch.cat([alone(k).terms().log_weight for k in range(2)])
            except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
                continue
            if _same_but_for_rounding(together, weights):
                return True
        return False

    def _select(self, guide_trace: poutine.Trace, k: int) -> poutine.Trace:
        """Return the trace of the k-th sample of a vectorized run."""
        selected = guide_trace.copy()
        for name, site in selected.nodes.items():
            if site["type"] == "sample" and not site["is_observed"] and not isinstance(site["fn"], _Subsample):
                value = site["value"]
                dim = value.ndim + self.particle_dim - site["fn"].event_dim
                selected.nodes[name] = {**site, "value": value.select(dim, k) if dim >= 0 else value}
        return selected

    def _run(self, *args: Any, **options: Any) -> Particles:
        return Particles(*self._traces(*args, **options), self.plate, self.particle_dim)

    def _traces(
        self,
        args: tuple[Any, ...],
        num_samples: int | None = None,
        replayed: poutine.Trace | None = None,
        at: Revision = unchanged,
    ) -> tuple[poutine.Trace, poutine.Trace, poutine.Trace]:
        """Return the traces of the model and of the guide, and the one that the model was replayed against."""
        outer = self._outer(num_samples)
        guide = outer(self.guide)
        if replayed is not None:
            guide = poutine.replay(guide, trace=replayed)
        with self._local_params():
            guide_trace = poutine.trace(guide).get_trace(*args)
            values = at(guide_trace)
            model_trace = poutine.trace(poutine.replay(outer(self.model), trace=values)).get_trace(*args)
        return model_trace, guide_trace, values

    def _outer(self, num_samples: int | None) -> Callable[[Program], Program]:
        if num_samples is None:
            return lambda program: program
        return pyro.plate(PARTICLES, num_samples, dim=self.particle_dim)

    def _local_params(self) -> AbstractContextManager[None]:
        return local_params(self.model, self.guide) if self._local else nullcontext()


def _rows(args: tuple[Any, ...]) -> int | None:
    tensors = (arg for arg in args if isinstance(arg, Tensor) and arg.ndim > 0)
    return next((len(tensor) for tensor in tensors), None)


def _same_but_for_rounding(one: Tensor, other: Tensor) -> bool:
    # Other batch shapes take other kernels, and sums of many terms cancel.
    tolerance = 1e3 * torch.finfo(one.dtype).eps
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def _equal(one: Any, other: Any) -> bool:
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.numel() == other.numel() and bool(one.flatten().isclose(other.flatten()).all())


def _mask(site: Site) -> Any:
    return True if site["mask"] is None else site["mask"]


def _largest_parameter(site: Site) -> int:
    """Return how many numbers the largest tensor has that the site's distribution was given."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    given = [value for name, value in vars(fn).items() if name in fn.arg_constraints and isinstance(value, Tensor)]
    return max((value.numel() for value in given), default=0)


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
