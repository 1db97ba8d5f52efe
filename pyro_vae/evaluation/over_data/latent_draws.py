"""A pair's runs over all data, a cacheful at a time: what was drawn, where log-weights alone do not do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.rows import HEAD, Rows
from pyro_vae.evaluation.over_data.stream import ROWS, VALUES
from pyro_vae.programs.log_weights import check_num_samples
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import Particles, Site
from pyro_vae.programs.precision import Rounding
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import keep_freed_memory
from pyro_vae.runtime.progress import progress_bar


@dataclass(frozen=True)
class Draws:
    """Some samples of some data: which, and the run that drew them."""

    data: slice
    samples: slice
    run: Particles


class LatentDraws:
    """Iterates over runs of a pair; every datum gets exactly ``num_samples``.

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x).
        x: data, or a tuple of all arguments, of which tensors as long as the first are cut into blocks.
        num_samples: samples for each datum.
        plate: the batch plate's name, where several would do.
        progress: show a bar; None shows it on a terminal only.

    Raises:
        ValueError: ``num_samples`` is below 1, x is no tensor, empty or not finite, or the batch plate subsamples.
        PairError: model and guide do not fit each other, or have no batch plate.
        NonFiniteError: no datum gives finite numbers.
    """

    def __init__(
        self, who: str, model: Program, guide: Program, x: Any, num_samples: int, plate: str | None,
        progress: bool | None,
    ) -> None:  # fmt: skip
        check_num_samples(who, num_samples)
        self.who, self.model, self.guide = who, model, guide
        self.num_samples, self._plate, self._progress = num_samples, plate, progress
        self._rows = Rows(who, x, model, guide, plate)
        self.size, self.unit, self.modules = self._rows.size, self._rows.unit, self._rows.modules
        self.takes_all = self._rows.why_whole is not None
        """Whether the pair takes all data at once, and no other number of them."""
        with in_mode(self.modules, training=False):
            self.pair = self._first_pair(0, self.size if self.takes_all else min(self.size, HEAD))
            self._rows.widen(self._seen, self.pair)
            self.vectorizes = self.pair.vectorizes
            self.pair.check_circles()
            self._rows.check_masks(self.pair)
        if self.pair.subsamples:
            raise ValueError(
                f"{who}: plate {self.pair.plate.name!r} takes {self.pair.plate.size} of the data alone, as a "
                f"subsample. Give it all the data that {who} is called with."
            )

    def _first_pair(self, start: int, stop: int) -> Pair:
        """Run the pair once on some data; where one of them is not finite, on the half without it."""
        self._seen = slice(start, stop)
        try:
            return Pair(self.model, self.guide, self.block(start, stop), self._plate)
        except NonFiniteError:
            if stop - start < 2 or self.takes_all:
                raise
        middle = (start + stop) // 2
        try:
            return self._first_pair(start, middle)
        except NonFiniteError:
            return self._first_pair(middle, stop)

    def block(self, start: int, stop: int) -> tuple[Any, ...]:
        """Return the arguments with the data from ``start`` to ``stop``, on the pair's device."""
        return self._rows.take(slice(start, stop))

    @property
    def rounding(self) -> Rounding:
        """How large the roundings in log-weights are, as measured on the first data and on those far from them."""
        with in_mode(self.modules, training=False):
            return self._rows.rounding(self._seen, self.pair)

    def bar(self, total: int, unit: str) -> "tqdm[Any]":
        """Return a progress bar."""
        return progress_bar(total, unit, self.who, shown=self._progress)

    def __iter__(self) -> Iterator[Draws]:
        keep_freed_memory()
        rows = min(ROWS, max(1, VALUES // max(1, self.pair.outputs)))
        step = min(self.num_samples, rows)
        if self.takes_all:
            step, width = max(1, min(step, rows // self.size)), self.size
        else:
            width = max(1, min(self.size, rows // step))
        with (
            torch.no_grad(),
            in_mode(self.modules, training=False),
            pyro.validation_enabled(False),
            self.bar(self.size, " data") as bar,
        ):
            for start in range(0, self.size, width):
                data = slice(start, min(start + width, self.size))
                block = self.block(data.start, data.stop)
                for sample in range(0, self.num_samples, step):
                    done = sample
                    for run in self.pair.run(block, min(step, self.num_samples - sample)):
                        yield Draws(data, slice(done, done + run.shape[0]), run)
                        done += run.shape[0]
                bar.update(data.stop - data.start)


def by_datum(run: Particles, site: Site, value: Tensor) -> Tensor:
    """Return a site's value, or something of its elements, as ``(num_samples, batch, *inner plates, *event)``."""
    fn = site["fn"]
    value = value.expand(fn.batch_shape + fn.event_shape)
    batch_dims = len(fn.batch_shape)
    if run.repeats > 1:
        dim = batch_dims + run.plate.dim
        value, batch_dims = value.unflatten(dim, (run.repeats, -1)).movedim(dim, 0), batch_dims + 1
    elif batch_dims < -run.particle_dim:
        value, batch_dims = value.unsqueeze(0), batch_dims + 1
    ordered = value.movedim(batch_dims + run.plate.dim, 1)
    plates = plates_of(site)
    return ordered.squeeze([2 + index for index, dim in enumerate(_inner_dims(run, site)) if dim not in plates])


def plates_of(site: Site) -> dict[int, str]:
    """Return the names of a site's plates by their dims; other batch dims only fill the space between them."""
    return {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def inner_plates(run: Particles, site: Site) -> list[str]:
    """Return the names of the dims that :func:`by_datum` puts between data and event."""
    plates = plates_of(site)
    return [plates[dim] for dim in _inner_dims(run, site) if dim in plates]


def _inner_dims(run: Particles, site: Site) -> list[int]:
    outer = run.particle_dim, run.plate.dim
    return [dim for dim in range(-len(site["fn"].batch_shape), 0) if dim not in outer]
