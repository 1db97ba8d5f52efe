"""A model and a guide run together: their sites, their batch plate, and whether samples vectorize."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae.errors import NonFiniteError, PairError, SupportError
from pyro_vae.programs.batch_plate import check_sites, find_plate
from pyro_vae.programs.coordinates import innermost, is_circular, stays_on_circle
from pyro_vae.programs.density import why_no_density
from pyro_vae.programs.held import of_these_data
from pyro_vae.programs.laws import core
from pyro_vae.programs.layouts import FixedRows, Layout, OneByOne, OuterPlate, RepeatedRows
from pyro_vae.programs.masks import check_same_masks, element_mask, has_masked_latents, with_other_masked_values
from pyro_vae.programs.modules import as_args, check_arguments, first_rows, local_params, num_rows
from pyro_vae.programs.nonfinite import find_nonfinite
from pyro_vae.programs.particles import (
    PARTICLES,
    BatchPlate,
    LogTerms,
    Particles,
    Site,
    latent_sites,
    observed_sites,
    rest_of_scale,
    same_order,
    samples,
    subsamples,
)
from pyro_vae.programs.precision import TOLERATED, nudged, roughened
from pyro_vae.programs.support import check_observed, discrete_dims
from pyro_vae.programs.undo import VERIFICATION_SEED, probing, undone_on_failure
from pyro_vae.programs.values import FilledMask, InsideSupport, OutsideIsNaN, may_leave, seen_elements
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise
from pyro_vae.runtime.user_code import plainly, told, with_place
from pyro_vae.runtime.wording import in_one_line

logger = logging.getLogger("pyro_vae")

SOFT_TARGETS = "soft targets"
"""The caveat of a likelihood that is no density of x."""

REMEDY = (
    "Where the decoder or the encoder fixes the batch dim, as h.reshape(-1, 32, 7, 7), keep all leading dims: "
    "h.reshape(*h.shape[:-1], 32, 7, 7)."
)

ALONE = OneByOne()
"""The layout of a run with one sample."""

Revision = Callable[[poutine.Trace], poutine.Trace]


def unchanged(trace: poutine.Trace) -> poutine.Trace:
    """Return the trace itself."""
    return trace


def _with_known_noise(trace: poutine.Trace) -> poutine.Trace:
    """Return the trace itself, and let the model draw the same noise of its own each time it is run at one."""
    torch.manual_seed(VERIFICATION_SEED)
    return trace


def unobserved(model: Program) -> Program:
    """Return the model without what it observes: the prior, which is the guide that every model has."""
    return poutine.block(model, hide_types=["observe"])


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
        with of_these, probing(self.model, self.guide), pyro.validation_enabled(True):
            self.hides_data, self.bounded = False, frozenset[str]()
            with self.explained(), FilledMask() as filled:
                traces = self._traces(self._args, inside=True)
            rows = subsamples(traces[1])
            model_trace, guide_trace, _ = map(prune_subsample_sites, traces)
            self.hides_data = filled.masked
            """Whether a mask hides elements of what is observed, so that they may be anything."""
            check_sites(model_trace, guide_trace)
            try:
                check_model_guide_match(model_trace, guide_trace)
            except ValueError as error:
                raise PairError(f"the sites of model and guide differ in shape: {error}") from error
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
                    with self.explained():
                        trace.compute_log_prob()
            for site in sites:
                check_site_shape(site, depth)
            with FixedRows(rows), pyro.validation_enabled(False):
                self.no_density = why_no_density(model_trace, guide_trace, self.plate, self._guide_under)
                """Why the guide has no density that a log-weight could take, and what to do; None where it has one."""
        self.unnormalised = _unnormalised(model_trace)
        """Why the model is no joint density of the data and the latent sites; None where it is one."""
        self.caveat = self.unnormalised or _scored_in_part(model_trace, guide_trace, self.plate)
        """Why weights do not estimate p(x): the model is unnormalised, or a plate scores a part of them; else None."""
        given = getattr(model, "given", None)
        self.given = given if isinstance(given, str) else None
        """What the model says that it has no density of, as "y" of p(x | y); None where it says nothing."""
        laws = {site["name"]: (site["fn"], guide_trace.nodes[site["name"]]["fn"]) for site in latent_sites(model_trace)}
        self.bounded = frozenset(name for name, (p, q) in laws.items() if may_leave(p, q) or may_leave(q, p))
        """Latent sites whose laws have different supports in the two programs."""
        observed, latent = observed_sites(model_trace), latent_sites(guide_trace)
        self.discrete_dims = discrete_dims(observed, self.plate.size)
        self.same_order = same_order(model_trace, guide_trace)
        self.scale: Any = rest_of_scale(observed[0])
        """What multiplies the log-probabilities of the data in a loss, beside what subsamples stand for."""
        self.scales_agree = all(_equal(rest_of_scale(site), self.scale) for site in observed)
        self.latent_scales_agree = all(_equal(site["scale"], latent[0]["scale"]) for site in latent)
        self.latent_masks_agree = all(_equal(_is_kept(site), _is_kept(latent[0])) for site in latent)
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
            first = self._particles((model_trace, guide_trace, guide_trace), ALONE, 1, self._args)
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
            with FixedRows(first.rows):
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
        with pyro.validation_enabled(False), self._local_params(), self._filled(), values:
            trace = poutine.trace(program).get_trace(*args)
        return self._particles((trace, trace, trace), self.layout, num_samples, args)

    @cached_property
    def guide_repeats(self) -> bool:
        """Whether the guide, run again with the values it drew, gives them the density it gave before.

        One with dropout does not, whose later run drops other units.
        """
        with probing(self.model, self.guide):
            first = self._run(self._args)
            with FixedRows(first.rows):
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
        with probing(self.model, self.guide):
            run = self._run(self._args)
            in_guide = [site["name"] for site in run.latents]
            in_model = [site["name"] for site in latent_sites(run.model_trace)]
            follows = set()
            for place, name in enumerate(in_model):
                later = set(in_model[:place]) & set(in_guide[in_guide.index(name) :])
                if later and self._law_moves(run, name, later):
                    follows.add(name)
        return frozenset(follows)

    def _law_moves(self, run: Particles, name: str, others: set[str]) -> bool:
        """Whether the model's law at a site depends on the values of other latent sites."""
        with FixedRows(run.rows):
            with self.explained(), self._local_params():
                prior = poutine.trace(unobserved(self.model)).get_trace(*self._args)
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
        """Refuse data of which model and guide mask different latent elements, or whose density follows masked ones.

        Args: as for :meth:`run`.

        Raises:
            PairError: names the site, or says what depends on what is masked.
        """
        args = as_args(x)
        chosen = nullcontext() if rows is None else FixedRows({self.plate.name: rows})
        with probing(self.model, self.guide), chosen:
            other, run = self._run(args), self._run(args, at=_with_known_noise)
            check_same_masks(run)
            values = with_other_masked_values(run.guide_trace, other.guide_trace)
            with FixedRows(run.rows):
                again = self._model_at(args, values)
            before, after = run.terms(), replace(run, model_trace=again).terms()
        sites = ", ".join(site["name"] for site in latent_sites(run.model_trace))
        for name, density in (("reconstruction", "log p(x | z)"), ("log_prior", "log p(z)")):
            if not _same_but_for_rounding(getattr(before, name), getattr(after, name)):
                raise PairError(
                    f"{density} depends on masked elements of the latent sites ({sites}), so that log p(x) is not "
                    f"defined. Mask everything that follows from them, or nothing of them."
                )

    def same_for_fewer(self, x: Any, count: int) -> bool:
        """Whether the first data have the same weights alone as beside the others, at the same latent values.

        Args:
            x: as in the constructor, with ``count`` data.
            count: how many data these are.
        """
        with probing(self.model, self.guide):
            first = self._run(self._args)
            # A plate's trace holds how many rows it had.
            chosen = prune_subsample_sites(first.guide_trace)
            for site in first.latents:
                dim = site["value"].ndim - site["fn"].event_dim + self.plate.dim
                chosen.nodes[site["name"]] = {**site, "value": site["value"].narrow(dim, 0, count)}
            self._run(as_args(x))
            fewer = _unless_it_fails(lambda: _narrow_weight(self._run(as_args(x), replayed=chosen)))
            # A guide may refuse values that it has not drawn, as a flow without an inverse does.
            return fewer is None or _same_but_for_rounding(_narrow_weight(first)[:, :count], fewer)

    def roundings(self, x: Any, most_rows: int = 32) -> tuple[Tensor, Tensor]:
        """Measure how far roundings move log-weights.

        Each latent value is moved by one rounding, so that the decoder computes anew; then each parameter that depends
        on the latent values is. The modules stay in the mode that they are in.

        Args:
            x: as in the constructor, of any batch size.
            most_rows: the most rows of a run; several samples of few data share one run.

        Returns:
            By how many nats a log-weight moved at most, and the largest log-weight without its sign, ``(batch,)``,
            float64, on the CPU.
        """
        # Of few data, several samples of each.
        layout, num_samples = self.layout, max(1, min(8, 32 // self.plate.size))
        together = max(1, most_rows // self.plate.size)
        parts = [min(together, num_samples - first) for first in range(0, num_samples, together)]
        counts = [count for part in parts for _, count in layout.chunks(part)]
        args, errors, magnitudes = as_args(x), [], []
        with probing(self.model, self.guide):
            for index, count in enumerate(counts):
                torch.manual_seed(VERIFICATION_SEED + index)
                elsewhere = self._run(args, layout, count)
                with FixedRows(elsewhere.rows):
                    run = self._run(args, layout, count, at=_with_known_noise)
                    latent = {site["name"] for site in latent_sites(run.model_trace)}
                    beside = self._model_at(run.args, nudged(run.guide_trace, latent), layout, count)
                exact = run.terms().log_weight
                magnitudes.append(_finite(exact))
                errors.append(magnitudes[-1] * torch.finfo(exact.dtype).eps)
                for moved in (beside, roughened(run.model_trace, elsewhere.model_trace)):
                    errors.append(_finite(replace(run, model_trace=moved).terms().log_weight - exact))
        return torch.cat(errors).amax(0), torch.cat(magnitudes).amax(0)

    def widen(self, x: Any) -> None:
        """Compute log-weights in float64 from now on where float32 would lose too much of those of these data."""
        if not self.wide:
            with probing(self.model, self.guide):
                self.wide = _loses(self._run(as_args(x))) > TOLERATED

    def _model_at(
        self, args: tuple[Any, ...], trace: poutine.Trace, layout: Layout = ALONE, num_samples: int = 1
    ) -> poutine.Trace:
        """Run the model at the values of a trace, with the same noise of its own in each call."""
        with self._local_params(), self._filled():
            model = poutine.replay(layout.program(self.model, num_samples), trace=_with_known_noise(trace))
            return poutine.trace(model).get_trace(*args)

    @property
    def subsamples(self) -> bool:
        """Whether the batch plate takes some of the data that it is given.

        One of a fixed size with ``subsample_size=len(x)`` takes them all; the size is a scale of the loss alone.
        """
        return self.plate.size < self.plate.full_size and self.plate.size != self.num_rows

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
        with probing(self.model, self.guide):
            return self._failure_of(OuterPlate(self.particle_dim))

    @cached_property
    def layout(self) -> Layout:
        """How the samples of a run lie: the first layout that gives each sample the weight it has when run alone.

        Decided by doing it: two samples are drawn in one run, and each is run alone, from the same noise or, where
        alone it asks for other noise, with the same values. A pair that fails in an outer plate is run on repeated
        rows, as independent data allow; one that fails there, too, is run in a loop, which is said once.
        """
        failures = []
        with probing(self.model, self.guide):
            for layout in self._layouts():
                failure = self._failure_of(layout)
                if failure is None:
                    return layout
                failures.append(failure)
        logger.warning(
            "samples of this pair are run one by one, which is slower. In an outer plate: %s. On repeated rows: %s. %s",
            failures[0], self._why_not_repeated(failures[1:]), REMEDY,
        )  # fmt: skip
        return ALONE

    def _layouts(self) -> Iterator[Layout]:
        """Yield the layouts that hold several samples, the cheapest first."""
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
        """Return why rows cannot be repeated, and what would help."""
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
        """Return why a layout cannot be used, or None where it can."""
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
        """Refuse a plate or a latent value that does not follow the number of rows: samples would share it."""
        expected = particles.repeats * self.plate.size
        for trace in (particles.model_trace, particles.guide_trace):
            for site in samples(trace):
                sizes = [f.size for f in site["cond_indep_stack"] if f.name == self.plate.name and f.size >= 0]
                dim = site["value"].ndim - site["fn"].event_dim + self.plate.dim
                if not site["is_observed"]:
                    sizes.append(site["value"].shape[dim] if dim >= 0 else 1)
                if any(size != expected for size in sizes):
                    raise ValueError(f"site {site['name']!r} does not follow the number of data")

    def _filled(self) -> AbstractContextManager[Any]:
        return FilledMask() if self.hides_data else nullcontext()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say in one sentence why a run of the pair fails: data outside a support, a NaN, or shapes."""
        try:
            yield
        except PairError as error:
            # Pyro adds the shapes of a trace to what is raised inside it.
            if str(error) == plainly(error):
                raise
            raise PairError(plainly(error)) from error
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
        """Return in one sentence why model and guide cannot be run together, and where the shapes of a site differ."""
        drawn, failures = {}, {}
        for where, program in (("model", self.model), ("guide", self.guide)):
            try:
                with self._local_params(), pyro.validation_enabled(False):
                    trace = poutine.trace(program).get_trace(*self._args)
            except (RuntimeError, ValueError) as error:
                failures[where] = told(error)
            else:
                drawn[where] = {site["name"]: tuple(site["value"].shape) for site in latent_sites(trace)}
        if failures:
            # Alone, the model runs at draws from the prior, and may fail for a reason of its own.
            where = next((where for where, failure in failures.items() if failure == reason), [*failures][-1])
            shapes = ", ".join(str(tuple(arg.shape)) for arg in self._args if isinstance(arg, Tensor))
            return f"the {where} cannot be run on data of shape {shapes}: {failures[where]}"
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

        def weights(alone: Callable[[int], Particles]) -> Tensor:
            return torch.cat([_narrow_weight(alone(k)) for k in range(2)])

        for alone in (from_noise, from_values):
            apart = _unless_it_fails(partial(weights, alone))
            if apart is not None and _same_but_for_rounding(together, apart):
                return True
        return False

    def _run(self, args: tuple[Any, ...], layout: Layout = ALONE, num_samples: int = 1, **options: Any) -> Particles:
        """Run the pair once, with the samples of the layout; ``options`` are those of :meth:`_traces`."""
        args = layout.arguments(args, num_samples)
        return self._particles(self._traces(args, layout, num_samples, **options), layout, num_samples, args)

    def _particles(
        self,
        traces: tuple[poutine.Trace, poutine.Trace, poutine.Trace],
        layout: Layout,
        num_samples: int,
        args: tuple[Any, ...],
    ) -> Particles:
        repeats = layout.repeats(num_samples)
        return Particles(
            *traces, self.plate, self.particle_dim, repeats, layout.subsampled, args, self.bounded, self.wide
        )

    def _guide_under(self, messenger: Messenger) -> poutine.Trace:
        with self._local_params(), messenger:
            return poutine.trace(self.guide).get_trace(*self._args)

    def _traces(
        self,
        args: tuple[Any, ...],
        layout: Layout = ALONE,
        num_samples: int = 1,
        replayed: poutine.Trace | None = None,
        at: Revision = unchanged,
        inside: bool = False,
    ) -> tuple[poutine.Trace, poutine.Trace, poutine.Trace]:
        """Return the traces of the model and of the guide, and the one that the model was replayed against.

        With ``inside`` the model is given no values outside its sites' supports.
        """
        model, guide = (layout.program(program, num_samples) for program in (self.model, self.guide))
        if replayed is not None:
            guide = poutine.replay(guide, trace=replayed)
        # A z that the model cannot have is scored, and not refused by Pyro's validation in some runs.
        unvalidated = pyro.validation_enabled(False) if self.bounded else nullcontext()
        with self._local_params(), unvalidated, self._filled():
            guide_trace = poutine.trace(guide).get_trace(*args)
            values = at(guide_trace)
            with InsideSupport() if inside else nullcontext():
                model_trace = poutine.trace(poutine.replay(model, trace=values)).get_trace(*args)
        return model_trace, guide_trace, values

    def _local_params(self) -> AbstractContextManager[None]:
        return local_params(self.model, self.guide) if self._local else nullcontext()


def _off_circle(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> tuple[str, str] | None:
    """Return a latent site of angles, and the guide's law there, where that does not draw angles."""
    for site in latent_sites(model_trace):
        theirs = guide_trace.nodes[site["name"]]
        if is_circular(site["fn"]) and not stays_on_circle(theirs):
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


def _unless_it_fails(weigh: Callable[[], Tensor]) -> Tensor | None:
    """Return log-weights; None where the user's programs fail by anything but a full memory."""
    try:
        return weigh()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None


def _loses(particles: Particles) -> float:
    """Return how many nats the program's dtype loses of a log-weight at most, against float64."""
    narrow, wide = _narrow_weight(particles), replace(particles, wide=True).terms().log_weight
    # What is beyond the largest float32 number is lost altogether.
    lost = _finite(wide - narrow).masked_fill(wide.cpu().isfinite() & ~narrow.cpu().isfinite(), math.inf)
    return lost.amax().item()


def _finite(values: Tensor) -> Tensor:
    """Return magnitudes in float64 on the CPU, 0 of what is not finite."""
    return values.detach().double().cpu().abs().nan_to_num(0.0, 0.0, 0.0)


def _same_but_for_rounding(weights: Tensor, others: Tensor) -> bool:
    # Other batch shapes take other kernels, and sums of many terms cancel.
    tolerance = 1e3 * torch.finfo(weights.dtype).eps
    return torch.allclose(weights, others, rtol=tolerance, atol=tolerance, equal_nan=True)


def _equal(scale: Any, other: Any) -> bool:
    scale, other = torch.as_tensor(scale), torch.as_tensor(other)
    return scale.numel() == other.numel() and bool(scale.flatten().isclose(other.flatten()).all())


def _is_kept(site: Site) -> Any:
    if seen_elements(site["fn"], None, within=object) is not None:
        # A mask of the law itself may tell elements apart that the site's cannot.
        return element_mask(site)
    return True if site["mask"] is None else site["mask"]


def _largest_parameter(site: Site) -> int:
    """Return how many numbers the largest tensor has that the site's distribution was given."""
    fn = core(site["fn"])
    parameters = [value for name, value in vars(fn).items() if name in fn.arg_constraints]
    return max((value.numel() for value in parameters if isinstance(value, Tensor)), default=0)


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
