"""Which of a pair's arguments are cut by data, and whether its programs take any number of data: tried on a few."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine

from pyro_vae.errors import NonFiniteError, PairError
from pyro_vae.programs.held import of_these_data
from pyro_vae.programs.modules import local_params, plain_errors
from pyro_vae.programs.pair import Pair, unobserved
from pyro_vae.programs.particles import samples
from pyro_vae.programs.undo import Undo, no_side_effects
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.wording import in_one_line

if TYPE_CHECKING:
    from pyro_vae.evaluation.over_data.rows import Rows

FEW = (3, 4, 5)
"""Numbers of data on which the programs are tried: the first two that are not N."""

COUPLED = "a datum's weight depends on the data beside it."
"""The failure of a guess that an argument belongs to the data: cut with them, it gives them other weights."""

Cut = tuple[bool, ...]
"""Which of the arguments are cut by data."""


def numbers_tried(size: int) -> list[int]:
    """Return on how many data the programs are tried, of ``size`` in all."""
    return [count for count in FEW if count != size][:2]


class FewData:
    """Runs programs on a few data: the pair, the model with its prior for a guide, or a guide by itself.

    Args:
        rows: the data, and which arguments are as long as the data.
        model: p(x, z); None where only the guide is run.
        guide: q(z | x); None where only the model is run.
    """

    def __init__(self, rows: "Rows", model: Program | None, guide: Program | None) -> None:
        self._rows, self._model, self._guide = rows, model, guide
        self._undo = Undo(*(program for program in (model, guide) if program is not None))

    def find(self) -> tuple[Cut, str | None]:
        """Return which arguments are cut, and why the programs take no other number of data; None where they do.

        Where no guess of what is cut works on a few data, the programs are run on all.

        Raises:
            PairError, ValueError: they do not run on all data either; the message is of that run.
        """
        as_long = self._rows.per_datum
        failures = []
        for cut in self._guesses(as_long):
            failure = self._failure_on_few(cut)
            if failure is None:
                return cut, None
            failures.append(failure)
            self._undo()
        # Programs that give a datum another weight beside other data do take few.
        whole = failures[0] != COUPLED and self._holds_all(as_long)
        return as_long, failures[0] if whole else None

    @staticmethod
    def _guesses(as_long: Cut) -> Iterator[Cut]:
        """Give which arguments may be cut: all that are as long as the data; all but one; the data alone."""
        yield as_long
        others = [index for index, is_long in enumerate(as_long) if is_long and index > 0]
        left_out = [[index] for index in others] + ([others] if len(others) > 1 else [])
        for indices in left_out:
            yield tuple(is_long and index not in indices for index, is_long in enumerate(as_long))

    def _failure_on_few(self, cut: Cut) -> str | None:
        """Return why the programs do not take a few data, or None where they do."""
        failures = []
        for count in numbers_tried(self._rows.size):
            try:
                failure = self._failure_on(count, cut)
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
                self._undo()
        if len(failures) == 1:
            # Another plate has as many rows as one of the tries; or the programs take as many data as the other alone.
            self._holds_all(cut)
        return failures[0] if len(failures) == 2 else None

    def _failure_on(self, count: int, cut: Cut) -> str | None:
        few, fewer = (self._rows.take(torch.arange(n) % self._rows.size, cut) for n in (count, count - 1))
        pair = None if self._model is None else self._pair(few)
        size = self._sizes_in_guide(few)[0] if pair is None else pair.plate.size
        if size != count:
            return f"the batch plate has {size} rows where x has {count}."
        made = [parameter.shape for parameter in self._undo.made]
        if made:
            self._undo()
            self._plate_sizes(fewer)
            if made != [parameter.shape for parameter in self._undo.made]:
                return "parameters are made on the first run, for as many data as it has."
        if sum(cut) > 1 and pair is not None and not pair.same_for_fewer(fewer, count - 1):
            return COUPLED
        return None

    def _holds_all(self, cut: Cut) -> bool:
        """Run the programs on all data; return whether these are the batch plate's rows, and not a subsample's.

        Where they are not finite, memory is short or anything but the data is wrong, whoever runs the programs next
        says so.
        """
        who, number, everything = self._rows.who, self._rows.size, self._rows.take(slice(None), cut)
        # A pair says itself where its guide has parameters for another number of data.
        alone = self._guide if self._model is None else None
        try:
            with nullcontext() if alone is None else of_these_data(alone, everything):
                size, full_size = self._plate_sizes(everything)
                if number not in (size, full_size):
                    raise PairError(
                        f"{who}: the batch plate has {size} rows where x of shape {tuple(everything[0].shape)} has "
                        f"{number}. Let the data lie along the first dim of x, and make the plate as "
                        f"pyro.plate('data', len(x))."
                    )
        except Exception as error:
            of_data = isinstance(error, (RuntimeError, ValueError)) and not isinstance(error, NonFiniteError)
            if of_data and not is_out_of_memory(error):
                raise
            return False
        return size == number

    def _plate_sizes(self, args: tuple[Any, ...]) -> tuple[int, int]:
        """Return the rows that the batch plate holds and those it stands for."""
        if self._model is None:
            return self._sizes_in_guide(args)
        plate = self._pair(args).plate
        return plate.size, plate.full_size

    def _pair(self, args: tuple[Any, ...]) -> Pair:
        assert self._model is not None
        guide = unobserved(self._model) if self._guide is None else self._guide
        return Pair(self._model, guide, args, self._rows.plate)

    def _sizes_in_guide(self, args: tuple[Any, ...]) -> tuple[int, int]:
        assert self._guide is not None
        quiet, plain = no_side_effects(self._rows.modules), plain_errors(self._rows.who, "the guide")
        with torch.no_grad(), quiet, local_params(self._guide), plain:
            trace = poutine.trace(self._guide).get_trace(*args)
        named = []
        for site in samples(trace):
            named += [f for f in site["cond_indep_stack"] if f.vectorized and self._rows.plate in (None, f.name)]
        rows = len(args[0])
        if not named or any(f.size in (rows, -1) for f in named):
            return rows, rows
        return max((int(f.size), int(f.full_size)) for f in named)
