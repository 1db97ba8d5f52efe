"""Some rows of a pair's arguments."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from pyro import poutine
from torch import Tensor, device

from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.programs.held import of_these_data
from pyro_vae.programs.missing import all_finite, check_finite_rows, check_not_empty
from pyro_vae.programs.modules import data_args, in_mode, local_params, modules_of, num_rows, plain_errors, take_rows
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import samples
from pyro_vae.programs.precision import Rounding
from pyro_vae.programs.undo import Undo, no_side_effects
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.wording import in_one_line

FEW = (3, 4, 5)
"""Rows on which the programs are tried, to see what follows the number of data: the first two that are not N."""


HEAD = 127
"""Data that programs are first run on at a time, to learn their sites, masks and roundings: no usual size of a batch.

A plate of a fixed size or a subsample of just as many would look like one of all these data."""

FAR = 2
"""Times the largest number of the first data, above which those of another datum may round otherwise."""


COUPLED = "a datum's weight depends on the data beside it."
"""Why an argument is taken to be another than it was thought to be."""


class _Widens(Protocol):
    """A joint density, or a pair."""

    def widen(self, x: Any) -> None:
        """Compute in float64 from now on where float32 would lose too much on these data."""


class _Masked(Protocol):
    """A joint density, or a pair."""

    masked: bool

    def check_masks(self, x: Any) -> None:
        """Refuse masks that make no sense on these data."""


class Rows:
    """The arguments of a pair, by data: what is per datum is cut, anything else is handed on whole.

    Per datum is a tensor or a packed batch of sequences as long as the first tensor, where the pair, run on a few data,
    gives them the log-joint that they have among others. Another argument of that length (a grid of as many times as
    there are data) is whole.

    Args:
        who: the caller, for messages.
        x: data ``(N, ...)``, or a tuple of all positional arguments that starts with them.
        model: p(x, z); None where only the guide is run.
        guide: q(z | x); None where only the model is run.
        plate: the batch plate's name, where several would do.

    Raises:
        ValueError: x is no tensor, is empty or not finite, or the batch plate holds something else than its rows.
    """

    def __init__(
        self, who: str, x: Any, model: Program | None = None, guide: Program | None = None, plate: str | None = None
    ) -> None:
        programs = [program for program in (model, guide) if program is not None]
        self._who, self.args = who, data_args(who, x, *programs)
        """All arguments."""
        first = self.args[0]
        check_not_empty(f"{who}: x", first)
        self.size = len(first)
        """N."""
        self.modules = modules_of(*programs)
        self.device: device = next((p.device for m in self.modules for p in m.parameters()), first.device)
        self.unit = "image" if first.ndim > 2 else "datum"
        """What a datum is called."""
        self.per_datum = tuple(num_rows(arg) == self.size for arg in self.args)
        """Which arguments are cut."""
        self.why_whole: str | None = None
        """Why the programs take all data at once and no other number of them; None where they take any number."""
        if not all_finite(first):
            check_finite_rows(f"{who}: x", self.take(slice(None)), model, guide)
        if programs:
            with in_mode(self.modules, training=False):
                self._try_few(_Trial(who, model, guide, plate))

    def take(self, rows: slice | Tensor) -> tuple[Any, ...]:
        """Return the arguments with the given data, on the programs' device."""
        cut = (take_rows(arg, rows) if each else arg for arg, each in zip(self.args, self.per_datum, strict=True))
        return tuple(arg.to(self.device) if hasattr(arg, "to") else arg for arg in cut)

    def check_masks(self, *parts: "_Masked") -> None:
        """Check all data against the masks on latent sites, where there are any.

        Raises:
            PairError, ValueError: as ``check_masks`` of the parts.
        """
        parts = tuple(part for part in parts if part.masked)
        width = self.size if self.why_whole else min(self.size, HEAD)
        for start in range(0, self.size if parts else 0, width):
            # All blocks have one size, as a program may ask for.
            block = self.take(torch.arange(start, start + width) % self.size)
            for part in parts:
                part.check_masks(block)

    def widen(self, seen: slice | Tensor, *parts: "_Widens") -> None:
        """Have parts that were made with some data look at those that are far from them, too.

        Args:
            seen: the data that the parts were made with.
            parts: what is to compute in float64 where one of all data calls for that.
        """
        for index in self._far_blocks(seen):
            for part in parts:
                part.widen(self.take(index))

    def rounding(self, seen: slice | Tensor, pair: Pair) -> Rounding:
        """Return how large the roundings in log-weights are: the largest of the data seen, for all that are like them.

        Data far from those have their own.

        Args:
            seen: the data that the pair was made with.
            pair: the pair, which was shown all data by :meth:`widen`.
        """
        errors, magnitudes = pair.roundings(self.take(seen))
        found = Rounding(*(values.max().repeat(self.size) for values in (errors, magnitudes)))
        for index in self._far_blocks(seen):
            errors, magnitudes = pair.roundings(self.take(index))
            # Data are repeated to fill a block.
            for values, own in ((found.error, errors), (found.magnitude, magnitudes)):
                values.scatter_reduce_(0, index, own, "amax", include_self=False)
        return found

    def _far_blocks(self, seen: slice | Tensor) -> Iterator[Tensor]:
        """Give the data with a number far above those of the data seen, some at a time.

        Programs that are shown all data at once have seen them all.
        """
        sizes = torch.zeros(self.size, dtype=torch.float64)
        for arg, each in zip(self.args, self.per_datum, strict=True):
            if each and isinstance(arg, Tensor) and arg.dtype != torch.bool and arg.numel():
                for start in range(0, self.size, HEAD):
                    rows = slice(start, start + HEAD)
                    largest = arg[rows].detach().reshape(len(arg[rows]), -1).abs().nan_to_num(0.0, 0.0, 0.0).amax(1)
                    sizes[rows] = torch.maximum(sizes[rows], largest.double().cpu())
        far = (sizes > FAR * sizes[seen].max()).nonzero().flatten()
        # All blocks have one size, as a program may ask for.
        for start in range(0, 0 if self.why_whole else len(far), min(self.size, HEAD)):
            yield far[torch.arange(start, start + min(self.size, HEAD)) % len(far)]

    def refuse_whole(self, needs: str) -> None:
        """Refuse programs that take all data at once and no other number of them.

        Args:
            needs: what the caller does, to end "and ...".

        Raises:
            PairError: says why they do.
        """
        if self.why_whole is not None:
            raise PairError(
                f"{self._who}: model and guide take all {self.size} data at once and no other number of them, and "
                f"{needs}. Parameters of each datum (AutoNormal) or a plate of a fixed size do that: read the "
                f"parameters off x, and make the plate as pyro.plate('data', len(x)). Tried on {self._tries()[0]} "
                f"data: {self.why_whole}"
            )

    def _try_few(self, trial: "_Trial") -> None:
        """See on a few data what follows their number; where nothing does, on all of them.

        Raises:
            PairError, ValueError: they do not run on all of them either, which is said of these.
        """
        guesses, failures = list(self._guesses()), []
        for self.per_datum in guesses:
            failure = self._failure_on_few(trial)
            if failure is None:
                return
            failures.append(failure)
            trial.undo()
        self.per_datum = guesses[0]
        if failures[0] == COUPLED:
            # They do take few.
            return
        if self._holds_all(trial):
            self.why_whole = failures[0]

    def _holds_all(self, trial: "_Trial") -> bool:
        """Run the programs on all data; return whether these are the batch plate's rows, and not a subsample's.

        Where they are not finite, memory is short or anything but the data is wrong, whoever runs the programs next
        says so.
        """
        everything = self.take(slice(None))
        try:
            with trial.of_these_data(everything):
                size, full_size = trial.plate_sizes(everything)
                if self.size not in (size, full_size):
                    raise PairError(
                        f"{self._who}: the batch plate has {size} rows where x of shape {tuple(everything[0].shape)} "
                        f"has {self.size}. Let the data lie along the first dim of x, and make the plate as "
                        f"pyro.plate('data', len(x))."
                    )
        except Exception as error:
            of_data = isinstance(error, (RuntimeError, ValueError)) and not isinstance(error, NonFiniteError)
            if of_data and not is_out_of_memory(error):
                raise
            return False
        return size == self.size

    def _guesses(self) -> Iterator[tuple[bool, ...]]:
        """Give which arguments may be per datum: all that are as long as the data; all but one; the data alone."""
        yield self.per_datum
        others = [index for index, cut in enumerate(self.per_datum) if cut and index > 0]
        left_out = [[index] for index in others] + ([others] if len(others) > 1 else [])
        for indices in left_out:
            yield tuple(cut and index not in indices for index, cut in enumerate(self.per_datum))

    def _failure_on_few(self, trial: "_Trial") -> str | None:
        """Return why the programs do not take a few data, or None where they do."""
        failures = []
        for count in self._tries():
            try:
                failure = self._failure_on(count, trial)
            except NonFiniteError:
                # Of a datum: whoever looks at all of them says which.
                return None
            except Exception as error:
                if is_out_of_memory(error):
                    # Whoever runs the programs next says so, or makes do with less.
                    return None
                failure = in_one_line(error)
            if failure is not None:
                failures.append(failure)
                trial.undo()
        if len(failures) == 1:
            # Another plate has as many rows as one of the tries; or the programs take as many data as the other alone.
            self._holds_all(trial)
        return failures[0] if len(failures) == 2 else None

    def _tries(self) -> list[int]:
        return [count for count in FEW if count != self.size][:2]

    def _failure_on(self, count: int, trial: "_Trial") -> str | None:
        few, fewer = self._few(count), self._few(count - 1)
        size, _ = trial.plate_sizes(few)
        if size != count:
            return f"the batch plate has {size} rows where x has {count}."
        made = [parameter.shape for parameter in trial.undo.made]
        if made:
            trial.undo()
            trial.plate_sizes(fewer)
            if made != [parameter.shape for parameter in trial.undo.made]:
                return "parameters are made on the first run, for as many data as it has."
        if sum(self.per_datum) > 1 and not trial.same_for_fewer(few, fewer, count - 1):
            return COUPLED
        return None

    def _few(self, count: int) -> tuple[Any, ...]:
        return self.take(torch.arange(count) % self.size)


class _Trial:
    """Runs programs on a few data: the pair, the model with its prior for a guide, or a guide by itself."""

    def __init__(self, who: str, model: Program | None, guide: Program | None, plate: str | None) -> None:
        self._who = who
        programs = [program for program in (model, guide) if program is not None]
        self._model, self._guide, self._plate, self._modules = model, guide, plate, modules_of(*programs)
        self.undo = Undo(*programs)

    def plate_sizes(self, args: tuple[Any, ...]) -> tuple[int, int]:
        """Return the rows that the batch plate holds and those it stands for."""
        if self._model is None:
            return self._sizes_in_guide(args)
        plate = self._pair(args).plate
        return plate.size, plate.full_size

    def of_these_data(self, args: tuple[Any, ...]) -> AbstractContextManager[None]:
        """Return what says it where a guide has parameters for another number of data; a pair says it itself."""
        return nullcontext() if self._guide is None or self._model is not None else of_these_data(self._guide, args)

    def same_for_fewer(self, few: tuple[Any, ...], fewer: tuple[Any, ...], count: int) -> bool:
        """Whether the first data have the weights, without the others, that they have beside them."""
        return self._model is None or self._pair(few).same_for_fewer(fewer, count)

    def _pair(self, args: tuple[Any, ...]) -> Pair:
        assert self._model is not None
        prior = poutine.block(self._model, hide_fn=_is_observed)
        return Pair(self._model, prior if self._guide is None else self._guide, args, self._plate)

    def _sizes_in_guide(self, args: tuple[Any, ...]) -> tuple[int, int]:
        assert self._guide is not None
        quiet, plain = no_side_effects(self._modules), plain_errors(self._who, "the guide")
        with torch.no_grad(), quiet, local_params(self._guide), plain:
            trace = poutine.trace(self._guide).get_trace(*args)
        plates = [f for site in samples(trace) for f in site["cond_indep_stack"] if f.vectorized]
        named = [f for f in plates if self._plate in (None, f.name)]
        rows = len(args[0])
        if not named or any(f.size in (rows, -1) for f in named):
            return rows, rows
        return max((int(f.size), int(f.full_size)) for f in named)


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and site["is_observed"]
