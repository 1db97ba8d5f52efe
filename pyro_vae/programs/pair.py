"""A model and a guide run together: their sites, their batch plate, and whether samples vectorize."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae.errors import NonFiniteError, PairError, SupportError
from pyro_vae.programs.batch_plate import check_sites, find_plate
from pyro_vae.programs.coordinates import innermost, is_circular, stays_on_circle
from pyro_vae.programs.density import why_no_density
from pyro_vae.programs.held import of_these_data
from pyro_vae.programs.laws import core
from pyro_vae.programs.layouts import Layout, OneByOne, OuterPlate, RepeatedRows
from pyro_vae.programs.masks import check_same_masks, has_masked_latents, with_other_masked_values
from pyro_vae.programs.modules import as_args, check_arguments, first_rows, local_params, modules_of, num_rows
from pyro_vae.programs.nonfinite import find_nonfinite
from pyro_vae.programs.particles import (
    PARTICLES,
    BatchPlate,
    LogTerms,
    Particles,
    Site,
    rest_of_scale,
    same_order,
    samples,
    subsamples,
)
from pyro_vae.programs.precision import TOLERATED, nudged, roughened
from pyro_vae.programs.support import check_observed, discrete_dims
from pyro_vae.programs.undo import VERIFICATION_SEED, no_side_effects, undone_on_failure
from pyro_vae.programs.values import FilledMask, InsideSupport, OutsideIsNaN, may_leave
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise
from pyro_vae.runtime.random_state import has_moved
from pyro_vae.runtime.user_code import plainly, told, with_place
from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

SOFT_TARGETS = "soft targets"
"""The caveat of a likelihood that is no law of x."""

REMEDY = (
    "Where the decoder or the encoder fixes the batch dim, as h.reshape(-1, 32, 7, 7), keep all leading dims: "
    "h.reshape(*h.shape[:-1], 32, 7, 7)."
)

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
        check_arguments(self._args, model=model, guide=guide)
        of_these = of_these_data(guide, self._args, model)
        with of_these, pyro.validation_enabled(True), self._quiet(), torch.no_grad():
            self.hides_data, self.bounded = False, frozenset[str]()
            with self._explained(), FilledMask() as filled:
                traces = self._traces(self._args, inside=True)
            rows = subsamples(traces[1])
            model_trace, guide_trace, _ = map(prune_subsample_sites, traces)
            self.hides_data = filled.masked
            """Whether a mask hides elements of what is observed, so that they may be anything."""
            check_sites(model_trace, guide_trace)
            with _restated("the sites of model and guide differ in shape"):
                check_model_guide_match(model_trace, guide_trace)
            self.num_rows = first_rows(self._args)
            self.plate = find_plate(model_trace, guide_trace, self.num_rows, plate)
            drawn = traces[1].nodes.get(self.plate.name)
            self.draws_rows = drawn is not None and getattr(drawn["fn"], "subsample_size", None) is not None
            """Whether the batch plate draws the numbers of its rows, and is not handed them."""
            sites = [*samples(model_trace), *samples(guide_trace)]
            depth = max(-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized)
            with warnings.catch_warnings():
                # Whoever uses the weights refuses a NaN, and says at which datum and site.
                warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
                for trace in (model_trace, guide_trace):
                    with self._explained():
                        trace.compute_log_prob()
            for site in sites:
                check_site_shape(site, depth)
            with FixedRows(rows), pyro.validation_enabled(False):
                self.no_density = why_no_density(model_trace, guide_trace, self.plate, self._guide_under)
                """Why the guide has no density that a log-weight could take, and what to do; None where it has one."""
        self.unnormalised = _unnormalised(model_trace)
        """Why the model is no joint density of the data and the latent sites; None where it is one."""
        self.caveat = self.unnormalised or _scored_in_part(model_trace, guide_trace, self.plate)
        """Why a log-weight is none of log p(x): the model is unnormalised, or a plate scores a part; else None."""
        self.bounded = frozenset(
            name
            for name, site in model_trace.nodes.items()
            if site["type"] == "sample" and not site["is_observed"] and name in guide_trace.nodes
            if may_leave(site["fn"], guide_trace.nodes[name]["fn"])
            or may_leave(guide_trace.nodes[name]["fn"], site["fn"])
        )
        """Latent sites whose laws have different supports in the two programs."""
        observed = [site for site in samples(model_trace) if site["is_observed"]]
        self.discrete_dims = discrete_dims(observed, self.plate.size)
        latent = [site for site in samples(guide_trace) if not site["is_observed"]]
        self.same_order = same_order(model_trace, guide_trace)
        self.scale: Any = rest_of_scale(observed[0])
        """What multiplies the log-probabilities of the data in a loss, beside what subsamples stand for."""
        self.scales_agree = all(_equal(rest_of_scale(site), rest_of_scale(observed[0])) for site in observed)
        self.latent_scales_agree = all(
            _equal(site["scale"], latent[0]["scale"]) and _equal(_mask(site), _mask(latent[0])) for site in latent
        )
        self.masked = has_masked_latents(model_trace) or has_masked_latents(guide_trace)
        """Whether latent elements of some data may be masked, in model or guide."""
        self.off_circle = _off_circle(model_trace, guide_trace)
        self.outputs = max(map(_largest_parameter, observed)) // self.plate.size
        self.particle_dim = -depth - 1
        """Where an outer plate of samples goes, a negative batch dim."""
        self.wide = False
        """Whether float32 sums would lose more than 0.001 nats of a log-weight, so that float64 ones are taken.

        Never where the caller decides on parameters: a loss is computed as Pyro computes it.
        """
        if local:
            first = Particles(
                model_trace, guide_trace, guide_trace, self.plate, self.particle_dim, bounded=self.bounded
            )
            with torch.no_grad(), pyro.validation_enabled(False):
                self.wide = _loses(first) > TOLERATED

    def run(self, x: Any, num_samples: int, rows: Tensor | None = None, at: Revision = unchanged) -> list[Particles]:
        """Run the pair on x: once where one run holds several samples, else once for each sample.

        Args:
            x: as in the constructor, of any batch size.
            num_samples: samples of the guide.
            rows: for a subsampled plate, the indices it shall take.
            at: makes the trace whose values the model takes out of the guide's.
        """
        args = as_args(x)
        if rows is not None:
            rows = rows.repeat(self.layout.repeats(num_samples))
        with nullcontext() if rows is None else FixedRows({self.plate.name: rows}):
            if self.layout.together:
                return [self._run(args, self.layout, num_samples, at=at)]
            first = self._run(args, at=at)
            # All samples of a datum are of the same datum.
            with FixedRows(subsamples(first.model_trace) | subsamples(first.guide_trace)):
                return [first, *(self._run(args, at=at) for _ in range(num_samples - 1))]

    def run_alone(self, program: Program, x: Any, num_samples: int, values: Messenger) -> Particles:
        """Run the model, the guide or a change of one, alone, with the samples laid out as in the pair's runs.

        Args:
            program: what is run.
            x: as in the constructor.
            num_samples: in this run; 1 where each sample has its own.
            values: gives sites their values.
        """
        args = self.layout.arguments(as_args(x), num_samples)
        program = self.layout.program(program, num_samples)
        filled = FilledMask() if self.hides_data else nullcontext()
        with pyro.validation_enabled(False), self._local_params(), filled, values:
            trace = poutine.trace(program).get_trace(*args)
        return self._particles((trace, trace, trace), self.layout, num_samples, args)

    @cached_property
    def guide_repeats(self) -> bool:
        """Whether the guide, run again with the values it drew, gives them the density it gave before.

        One with dropout does not, whose later run drops other units.
        """
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            first = self._run(self._args)
            with FixedRows(subsamples(first.guide_trace)):
                again = self.rerun_guide(self._args, first.guide_trace)
            first = replace(first, wide=False)
            before, after = first.terms().log_guide, replace(first, guide_trace=again).terms().log_guide
        return _same_but_for_rounding(before, after)

    @cached_property
    def follows_later(self) -> frozenset[str]:
        """Latent sites whose law in the model depends on sites that the guide samples after them.

        The guide's draws before such a site do not fix its law in the model. Decided by doing it: the model is run at
        other values of the later sites, drawn from the prior, and the site's density at the same value is compared.
        """
        if self.same_order:
            return frozenset()
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            run = self._run(self._args)
            in_guide = [site["name"] for site in run.latents]
            in_model = [site["name"] for site in samples(run.model_trace) if not site["is_observed"]]
            follows = set()
            for place, name in enumerate(in_model):
                later = set(in_model[:place]) & set(in_guide[in_guide.index(name) :])
                if later and self._law_moves(run, name, later):
                    follows.add(name)
        return frozenset(follows)

    def _law_moves(self, run: Particles, name: str, others: set[str]) -> bool:
        """Whether the model's law at a site depends on the values of other latent sites."""
        with FixedRows(subsamples(run.model_trace) | subsamples(run.guide_trace)):
            hidden = poutine.block(self.model, hide_fn=lambda site: site["type"] == "sample" and site["is_observed"])
            with self._local_params():
                prior = poutine.trace(hidden).get_trace(*self._args)
            moved = run.guide_trace.copy()
            for other in others:
                moved.nodes[other] = {**moved.nodes[other], "value": prior.nodes[other]["value"]}
            densities = [
                trace.nodes[name]["fn"].log_prob(run.guide_trace.nodes[name]["value"])
                for trace in (self._model_at(self._args, run.guide_trace), self._model_at(self._args, moved))
            ]
        return not _same_but_for_rounding(*densities)

    def check_circles(self) -> None:
        """Refuse a guide that draws angles from the whole line, where the model's law repeats.

        Raises:
            PairError: names the site: the weights would count each angle again and again.
        """
        if self.off_circle is not None:
            name, law = self.off_circle
            raise PairError(
                f"latent site {name!r}: the model's law is a density of angles from -pi to pi, and the guide's {law} "
                f"draws from beyond them, where that density repeats. Use a guide that draws angles, as from VonMises."
            )

    def check_masks(self, x: Any, rows: Tensor | None = None) -> None:
        """Refuse data for which model and guide mask other latent elements, or whose density follows masked ones.

        Args: as for :meth:`run`.

        Raises:
            PairError: names the site, or says what depends on what is masked.
        """
        args = as_args(x)
        chosen = nullcontext() if rows is None else FixedRows({self.plate.name: rows})
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False), chosen:
            run, other = self._run(args), self._run(args)
            check_same_masks(run)
            values = with_other_masked_values(run.guide_trace, other.guide_trace)
            with FixedRows(subsamples(run.model_trace)), self._local_params():
                again = poutine.trace(poutine.replay(self.model, trace=values)).get_trace(*args)
            before, after = run.terms().log_joint, replace(run, model_trace=again).terms().log_joint
        if not _same_but_for_rounding(before, after):
            raise PairError(
                "log p(x, z) depends on latent elements that are masked, so that log p(x) is not defined. Mask "
                "everything that follows from them, or nothing of them."
            )

    def same_for_fewer(self, x: Any, count: int) -> bool:
        """Whether the first data have, without the others, the weights that they have beside them at the same values.

        Args:
            x: as in the constructor, with ``count`` data.
            count: how many data these are.
        """
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            first = self._run(self._args)
            # A plate's trace holds how many rows it had.
            chosen = prune_subsample_sites(first.guide_trace)
            for site in first.latents:
                dim = site["value"].ndim - site["fn"].event_dim + self.plate.dim
                chosen.nodes[site["name"]] = {**site, "value": site["value"].narrow(dim, 0, count)}
            self._run(as_args(x))
            try:
                found = _narrow_weight(self._run(as_args(x), replayed=chosen))
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                # A guide may refuse values that it has not drawn, as a flow without an inverse does.
                return True
            return _same_but_for_rounding(_narrow_weight(first)[:, :count], found)

    def roundings(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return how large the roundings in log-weights are, by what moves them that should not.

        Each latent value by one rounding: a decoder computes anew beside it. And by one rounding each parameter that
        the decoder has made of them. Measured in the modules' mode of the moment.

        Args:
            x: as in the constructor, of any batch size.

        Returns:
            By how many nats a log-weight moved at most, and the largest log-weight without its sign, ``(batch,)``,
            float64, on the CPU.
        """
        args, errors, magnitudes, draws_noise = as_args(x), [], [], True
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False), self._local_params():
            for index in range(max(1, min(8, 32 // self.plate.size))):
                torch.manual_seed(VERIFICATION_SEED + index)
                run = self._run(args)
                latent = {site["name"] for site in samples(run.model_trace) if not site["is_observed"]}
                with FixedRows(subsamples(run.model_trace) | subsamples(run.guide_trace)):
                    elsewhere = self._run(args).model_trace
                    nudged_trace = nudged(run.guide_trace, latent)
                    at_values = run.model_trace
                    if draws_noise:
                        # A model without noise of its own gives at these values what the run gave.
                        at_values = self._model_at(args, run.guide_trace)
                        draws_noise = has_moved(VERIFICATION_SEED)
                    beside = self._model_at(args, nudged_trace)
                traces = (at_values, beside, roughened(at_values, elsewhere))
                exact, *moved = (replace(run, model_trace=trace).terms().log_weight for trace in traces)
                magnitudes.append(_finite(exact)[0])
                errors += [_finite(weight - exact)[0] for weight in moved]
                errors.append(magnitudes[-1] * torch.finfo(exact.dtype).eps)
        return torch.stack(errors).amax(0), torch.stack(magnitudes).amax(0)

    def widen(self, x: Any) -> None:
        """Compute log-weights in float64 from now on where float32 would lose too much of those of these data."""
        if not self.wide:
            with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
                self.wide = _loses(self._run(as_args(x))) > TOLERATED

    def _model_at(self, args: tuple[Any, ...], trace: poutine.Trace) -> poutine.Trace:
        """Run the model at the values of a trace; what noise it draws of its own is the same in each call."""
        torch.manual_seed(VERIFICATION_SEED)
        with FilledMask() if self.hides_data else nullcontext():
            return poutine.trace(poutine.replay(self.model, trace=trace)).get_trace(*args)

    @property
    def subsamples(self) -> bool:
        """Whether the batch plate takes some of the data that it is given.

        One of a fixed size with ``subsample_size=len(x)`` takes them all; the size is a scale of the loss alone.
        """
        return self.plate.size < self.plate.full_size and self.plate.size != self.num_rows

    @property
    def normalized(self) -> bool:
        """Whether p(x, z) is a density, so that p(x) is one."""
        return self.caveat is None

    def require_density(self, who: str) -> None:
        """Refuse a guide that scores something else than a density of the latent sites.

        Raises:
            PairError: names the site, and what to do.
        """
        if self.no_density is not None:
            raise PairError(f"{who}: the guide has no density to weigh its draws by: {self.no_density}.")

    def guarded(self) -> AbstractContextManager[Any]:
        """Return what a loss of the pair is computed in: masked data may be anything, impossible latents are NaN."""
        stack = ExitStack()
        if self.hides_data:
            stack.enter_context(FilledMask())
        if self.bounded:
            stack.enter_context(OutsideIsNaN(self.bounded))
        return stack

    def rerun_guide(self, args: tuple[Any, ...], trace: poutine.Trace) -> poutine.Trace:
        """Run the guide with the values, and as many samples, as a trace of it on the same arguments holds."""
        frames = (f for site in samples(trace) for f in site["cond_indep_stack"] if f.name == PARTICLES)
        count = next((f.size for f in frames), None)
        guide = self.guide if count is None else self.layout.program(self.guide, count)
        with self._local_params():
            return poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*args)

    def terms(self, x: Any, num_samples: int, rows: Tensor | None = None) -> LogTerms:
        """Run the pair on x and return each term of the log-weights, ``(num_samples, plate.size)``.

        Args: as for :meth:`run`.
        """
        return LogTerms.together([particles.terms() for particles in self.run(x, num_samples, rows)])

    @property
    def vectorizes(self) -> bool:
        """Whether one run holds several samples."""
        return self.layout.together

    @property
    def why_no_outer_plate(self) -> str | None:
        """Why samples cannot lie in a plate left of all others, where Pyro's vectorized particles are; else None."""
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            return self._failure_of(OuterPlate(self.particle_dim))

    @cached_property
    def layout(self) -> Layout:
        """How the samples of a run lie: the first layout that gives each sample the weight it has when run alone.

        Decided by doing it: two samples are drawn in one run, and each is run alone, from the same noise or, where
        alone it asks for other noise, with the same values. A pair that fails in an outer plate is run on repeated
        rows, as independent data allow; one that fails there, too, is run in a loop, which is said once.
        """
        failures = []
        with torch.no_grad(), self._quiet(), pyro.validation_enabled(False):
            for layout in self._layouts():
                failure = self._failure_of(layout)
                if failure is None:
                    return layout
                failures.append(failure)
        logger.warning(
            "samples of this pair are run one by one, which is slower. In an outer plate: %s. On repeated rows: %s. %s",
            failures[0], self._why_not_repeated(failures[1:]), REMEDY,
        )  # fmt: skip
        return OneByOne()

    def _layouts(self) -> Iterator[Layout]:
        """Give those that hold several samples, the cheapest first."""
        yield OuterPlate(self.particle_dim)
        as_long = tuple(num_rows(arg) == self.plate.size for arg in self._args)
        choices = [as_long] if any(as_long) else []
        if sum(as_long) > 1:
            # Another argument of that length need not be one of the data's.
            first = as_long.index(True)
            choices.append(tuple(index == first for index in range(len(as_long))))
        if self.plate.size == self.plate.full_size:
            yield from (RepeatedRows(self.plate, choice) for choice in choices)
        if self.draws_rows or self.plate.size < self.plate.full_size:
            yield from (RepeatedRows(self.plate, choice, subsampled=True) for choice in choices)

    def _why_not_repeated(self, failures: list[str]) -> str:
        """Say why rows cannot be repeated, and what would help there."""
        if not failures:
            return (
                f"plate {self.plate.name!r} takes {self.plate.size} of {self.plate.full_size} data out of all of them; "
                f"pass a batch of the data instead, and give the plate subsample_size=len(x)"
            )
        parts = [part for part in (self.model, self.guide) if isinstance(part, partial)]
        held = [value for part in parts for value in (*part.args, *part.keywords.values())]
        if any(num_rows(value) == self.plate.size for value in held):
            return f"{failures[0]}; a tensor of the data in functools.partial is not repeated: pass it as an argument"
        return failures[0]

    def _failure_of(self, layout: Layout) -> str | None:
        """Return why a layout does not do, or None where it does."""
        try:
            with undone_on_failure(self.model, self.guide):
                with RecordedNoise() as noise:
                    particles = self._run(self._args, layout, 2)
                if layout.repeats(2) > 1:
                    self._check_repeated(particles)
                together = _narrow_weight(particles)
        except Exception as error:
            # Any failure of the user's program means the same.
            if is_out_of_memory(error):
                raise
            return in_one_line(error)
        if self._same_alone(layout, together, particles, noise.draws):
            return None
        return "a sample's weight depends on the samples beside it"

    def _check_repeated(self, particles: Particles) -> None:
        """Refuse a plate or a value that did not follow the number of rows, where another would have been shared."""
        expected = particles.repeats * self.plate.size
        for trace in (particles.model_trace, particles.guide_trace):
            for site in samples(trace):
                sizes = [f.size for f in site["cond_indep_stack"] if f.name == self.plate.name and f.size >= 0]
                dim = site["value"].ndim - site["fn"].event_dim + self.plate.dim
                if not site["is_observed"]:
                    sizes.append(site["value"].shape[dim] if dim >= 0 else 1)
                if any(size != expected for size in sizes):
                    raise ValueError(f"site {site['name']!r} does not follow the number of data")

    def _quiet(self) -> AbstractContextManager[None]:
        """Leave random number generators and buffers (running means) as they were, and all else if it fails."""
        return no_side_effects(modules_of(self.model, self.guide))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in a sentence what a first run of the pair fails by: data outside a support, a NaN, or shapes."""
        try:
            yield
        except PairError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise PairError(self._why_it_fails(told(error))) from error
        except ValueError as error:
            try:
                check_observed(self.model, self._args)
            except SupportError as outside:
                raise outside from error
            except Exception:
                pass
            # Pyro's validation refuses a NaN parameter before its distribution reaches a site, and names none.
            try:
                where = find_nonfinite(self.model, self.guide, self._args)
            except (RuntimeError, ValueError):
                where = None
            if where is None and "Shape mismatch" in str(error):
                raise PairError(self._why_it_fails(plainly(error))) from error
            if where is None:
                raise ValueError(with_place(plainly(error), error)) from error
            raise NonFiniteError(with_place(f"{where} {plainly(error)}", error)) from error

    def _why_it_fails(self, reason: str) -> str:
        """Say in a sentence why model and guide cannot be run together: what they draw, where that differs."""
        drawn, shapes = {}, [tuple(arg.shape) for arg in self._args if isinstance(arg, Tensor)]
        for where, program in (("guide", self.guide), ("model", self.model)):
            try:
                with self._local_params(), pyro.validation_enabled(False):
                    trace = poutine.trace(program).get_trace(*self._args)
            except (RuntimeError, ValueError) as error:
                return f"the {where} cannot be run on data of shape {', '.join(map(str, shapes))}: {told(error)}"
            drawn[where] = {s["name"]: tuple(s["value"].shape) for s in samples(trace) if not s["is_observed"]}
        for name in drawn["guide"].keys() & drawn["model"].keys():
            of_guide, of_model = drawn["guide"][name], drawn["model"][name]
            if of_guide != of_model:
                return (
                    f"site {name!r} has shape {of_guide} in the guide and {of_model} in the model: give both the same "
                    f"latent dims. The model, run on the guide's, says: {reason}"
                )
        return f"model and guide cannot be run together: {reason}"

    def _same_alone(self, layout: Layout, together: Tensor, particles: Particles, draws: list[Tensor]) -> bool:
        """Whether each sample of a run with two has the same weight when it is run by itself."""

        def from_noise(k: int) -> Particles:
            with ReplayedNoise(draws, k):
                return self._run(self._args)

        def from_values(k: int) -> Particles:
            return self._run(self._args, replayed=_sample(layout, particles, k))

        for alone in (from_noise, from_values):
            try:
                weights = torch.cat([_narrow_weight(alone(k)) for k in range(2)])
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                continue
            if _same_but_for_rounding(together, weights):
                return True
        return False

    def _run(
        self, args: tuple[Any, ...], layout: Layout | None = None, num_samples: int = 1, **options: Any
    ) -> Particles:
        """Run the pair with the samples in one run, or with one sample where there is no layout."""
        args = args if layout is None else layout.arguments(args, num_samples)
        return self._particles(self._traces(args, layout, num_samples, **options), layout, num_samples, args)

    def _particles(
        self,
        traces: tuple[poutine.Trace, poutine.Trace, poutine.Trace],
        layout: Layout | None,
        num_samples: int,
        args: tuple[Any, ...],
    ) -> Particles:
        repeats = 1 if layout is None else layout.repeats(num_samples)
        subsampled = isinstance(layout, RepeatedRows) and layout.subsampled
        return Particles(
            *traces, self.plate, self.particle_dim, repeats, subsampled, args, self.bounded, self.wide
        )  # fmt: skip

    def _guide_under(self, messenger: Messenger) -> poutine.Trace:
        with self._local_params(), messenger:
            return poutine.trace(self.guide).get_trace(*self._args)

    def _traces(
        self,
        args: tuple[Any, ...],
        layout: Layout | None = None,
        num_samples: int = 1,
        replayed: poutine.Trace | None = None,
        at: Revision = unchanged,
        inside: bool = False,
    ) -> tuple[poutine.Trace, poutine.Trace, poutine.Trace]:
        """Return the traces of the model and of the guide, and the one that the model was replayed against.

        With ``inside`` the model is given no values outside its sites' supports.
        """
        model, guide = self.model, self.guide
        if layout is not None:
            model, guide = (layout.program(program, num_samples) for program in (model, guide))
        if replayed is not None:
            guide = poutine.replay(guide, trace=replayed)
        # A z that the model cannot have is scored, and not refused by Pyro's validation in some runs.
        unvalidated = pyro.validation_enabled(False) if self.bounded else nullcontext()
        with self._local_params(), unvalidated, FilledMask() if self.hides_data else nullcontext():
            guide_trace = poutine.trace(guide).get_trace(*args)
            values = at(guide_trace)
            with InsideSupport() if inside else nullcontext():
                model_trace = poutine.trace(poutine.replay(model, trace=values)).get_trace(*args)
        return model_trace, guide_trace, values

    def _local_params(self) -> AbstractContextManager[None]:
        return local_params(self.model, self.guide) if self._local else nullcontext()


def _off_circle(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> tuple[str, str] | None:
    """Return a latent site of angles, and the guide's law there, where that does not draw angles."""
    for site in samples(model_trace):
        theirs = guide_trace.nodes.get(site["name"])
        if not site["is_observed"] and theirs is not None and is_circular(site["fn"]) and not stays_on_circle(theirs):
            return site["name"], type(innermost(theirs["fn"])).__name__
    return None


def _sample(layout: Layout, particles: Particles, k: int) -> poutine.Trace:
    """Return the guide's trace of the k-th sample of a run with two."""
    selected = particles.guide_trace.copy()
    rows = selected.nodes.get(particles.plate.name)
    if rows is not None and particles.repeats > 1:
        selected.nodes[rows["name"]] = {**rows, "value": rows["value"][: particles.shape[1]]}
    for site in particles.latents:
        selected.nodes[site["name"]] = {**site, "value": layout.apart(particles, site)[k]}
    return selected


def _narrow_weight(particles: Particles) -> Tensor:
    """Return log-weights in the program's own dtype, whose roundings :func:`_same_but_for_rounding` knows."""
    return replace(particles, wide=False).terms().log_weight


def _loses(particles: Particles) -> float:
    """Return how many nats the program's dtype loses of a log-weight at most, against float64."""
    narrow, wide = _narrow_weight(particles), replace(particles, wide=True).terms().log_weight
    # What is beyond the largest float32 number is lost altogether.
    lost = _finite(wide - narrow).masked_fill(wide.cpu().isfinite() & ~narrow.cpu().isfinite(), math.inf)
    return lost.amax().item()


def _finite(values: Tensor) -> Tensor:
    """Return magnitudes in float64 on the CPU, 0 of what is not finite."""
    return values.detach().double().cpu().abs().nan_to_num(0.0, 0.0, 0.0)


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
    fn = core(site["fn"])
    given = [value for name, value in vars(fn).items() if name in fn.arg_constraints and isinstance(value, Tensor)]
    return max((value.numel() for value in given), default=0)


def _unnormalised(model_trace: poutine.Trace) -> str | None:
    for site in samples(model_trace):
        fn = core(site["fn"])
        if not getattr(fn, "normalized", True):
            return SOFT_TARGETS
        if isinstance(fn, Unit) and bool((fn.log_factor != 0).any()):
            return f"pyro.factor {site['name']!r} makes p(x, z) unnormalised"
    return None


def _scored_in_part(model_trace: poutine.Trace, guide_trace: poutine.Trace, plate: BatchPlate) -> str | None:
    for site in [*samples(model_trace), *samples(guide_trace)]:
        for frame in site["cond_indep_stack"]:
            if frame.name != plate.name and frame.full_size is not None and 0 < frame.size < frame.full_size:
                return f"plate {frame.name!r} scores {frame.size} of {frame.full_size} elements"
    return None


@contextmanager
def _restated(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise PairError(f"{what}: {error}") from error
