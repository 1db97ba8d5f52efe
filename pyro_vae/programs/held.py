"""Parameters of each datum, found by its place among the data, as Pyro's ``AutoNormal`` has them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.errors import NonFiniteError, PairError, SupportError
from pyro_vae.programs.modules import as_args, first_rows, local_params, modules_of, some_rows
from pyro_vae.programs.particles import samples
from pyro_vae.programs.undo import VERIFICATION_SEED, Undo, probing
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory

MOST = 100_000
"""The largest number of data for which a guide is tried."""


def makes_for_each(program: Program, x: Any) -> bool:
    """Whether a program makes parameters on its first run, of a size that follows the number of data.

    Args:
        program: a model or a guide.
        x: data ``(N, ...)``, or a tuple of all positional arguments.
    """
    args = as_args(x)
    rows = first_rows(args)
    if rows is None:
        return False
    undo = Undo(program)

    def shapes_made(count: int) -> list[torch.Size] | None:
        try:
            poutine.trace(program).get_trace(*_cycled(args, rows, count))
            return [parameter.shape for parameter in undo.made]
        except Exception:
            # It takes one number of data alone, or fails on these, which others say.
            return None
        finally:
            undo()

    with probing(program), local_params(program):
        shapes = shapes_made(rows)
        return bool(shapes) and any(other not in (None, shapes) for other in map(shapes_made, _others(rows)))


def data_held(guide: Program, x: Any, model: Program | None = None) -> int | None:
    """Return for how many data a guide has parameters, each found by the datum's place.

    Found by doing it: the guide takes that many data and no other number, and in another order they get the same draws.

    Args:
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments; of any number.
        model: p(x, z), where it is known.

    Returns:
        The number, or None of a guide that takes any number of data, or reads what it draws off them.
    """
    args = as_args(x)
    rows = first_rows(args)
    if rows is None:
        return None
    before = Undo(guide, model)
    with probing(guide, model), local_params(guide, model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # One that has not run makes its parameters now.
        plates: dict[str, int] = {}
        try:
            plates = _plates(poutine.trace(guide).get_trace(*args))
        except Exception:
            # It does not run on this number of data.
            before()
        made = Undo(guide, model)

        def takes(count: int) -> bool:
            try:
                return _runs(guide, model, _cycled(args, rows, count), count)
            finally:
                made()

        try:
            if takes(rows) and any(map(takes, _others(rows))):
                return None
            lengths = _lengths(guide, model)
            counts = sorted(lengths | set(plates.values())) if lengths else []
            return next((count for count in counts if takes(count) and _ignores_order(guide, args, rows, count)), None)
        finally:
            before()


def other_data(held: int, given: int | None) -> str:
    """Say that a guide has parameters for another number of data than it was given."""
    return (
        f"the guide has parameters for {held} data, each found by its place among them, and {given} were given: give "
        f"it all {held} at once, in their order, or use a guide that reads its parameters off x."
    )


@contextmanager
def of_these_data(guide: Program, x: Any, model: Program | None = None) -> Iterator[None]:
    """Name the numbers of data where programs fail because the guide has parameters for another number of them.

    Args: as for :func:`data_held`.

    Raises:
        PairError: says how many these are, and how many were given.
    """
    try:
        yield
    except (NonFiniteError, SupportError):
        raise
    except (RuntimeError, ValueError) as error:
        held, given = None if is_out_of_memory(error) else data_held(guide, x, model), first_rows(as_args(x))
        if held in (None, given):
            raise
        raise PairError(other_data(held, given)) from error


def _others(rows: int) -> list[int]:
    """Return other numbers of data: more than a subsampled plate may stand for, and fewer; never one, which expands."""
    return [count for count in (rows + 1, rows - 1) if count > 1]


def _cycled(args: tuple[Any, ...], rows: int, count: int, *, backwards: bool = False) -> tuple[Any, ...]:
    """Return the arguments with ``count`` data: the given ones in order, repeated where they are too few."""
    index = torch.arange(count) % rows
    index = index.flip(0) if backwards else index
    return some_rows(args, index, rows)


def _lengths(guide: Program, model: Program | None) -> set[int]:
    """Return the sizes of parameters that the guide alone may have, as far as they may be numbers of data."""
    of_model = {id(p) for module in modules_of(model) for p in module.parameters()}
    parameters = [p for module in modules_of(guide) for p in module.parameters() if id(p) not in of_model]
    # Pyro joins the names of a module and of its parameter by these signs.
    stored = [value for name, value in pyro.get_param_store().items() if "$$$" not in name]
    return {size for value in (*parameters, *stored) for size in value.shape if 0 < size <= MOST}


def _runs(guide: Program, model: Program | None, args: tuple[Any, ...], count: int) -> bool:
    """Whether guide and model run on data, and their plates have as many rows."""
    try:
        guide_trace = poutine.trace(guide).get_trace(*args)
        sizes = _plates(guide_trace)
        if model is None:
            return not sizes or bool({count, -1} & set(sizes.values()))
        # Replayed, a plate of the model would have the rows of the guide's.
        values = poutine.replay(model, trace=prune_subsample_sites(guide_trace))
        model_trace = poutine.trace(values).get_trace(*args)
        model_trace.compute_log_prob()
    except Exception:
        # Whatever the reason, it does not take this number of data.
        return False
    of_model = _plates(model_trace)
    return all(sizes[name] == of_model[name] for name in sizes.keys() & of_model.keys())


def _plates(trace: poutine.Trace) -> dict[str, int]:
    """Return the sizes of the plates that hold a trace's sites."""
    return {f.name: int(f.size) for site in samples(trace) for f in site["cond_indep_stack"] if f.vectorized}


def _ignores_order(guide: Program, args: tuple[Any, ...], rows: int, count: int) -> bool:
    """Whether the guide draws the same, place by place, whatever order the data have."""

    def drawn(*, backwards: bool) -> list[Tensor]:
        torch.manual_seed(VERIFICATION_SEED)
        trace = poutine.trace(guide).get_trace(*_cycled(args, rows, count, backwards=backwards))
        return [site["value"] for site in samples(trace)]

    return all(map(torch.equal, drawn(backwards=False), drawn(backwards=True)))
