"""Runs of a pair over all data, a cacheful at a time, for those who need more than log-weights: what was drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.pair_rows import PairRows
from pyro_vae.evaluation.over_data.rows import rows_a_call
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import Particles, Site
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count


@dataclass(frozen=True)
class DrawnBlock:
    """Some samples of some data: which, and the run that drew them."""

    data: slice
    samples: slice
    run: Particles


class LatentDraws(PairRows):
    """Iterates over runs of a pair; every datum gets exactly ``num_samples``.

    Args: as for :class:`pyro_vae.evaluation.over_data.rows.Rows`, and
        num_samples: samples for each datum.
        most_rows: samples times data of a run; None takes the current ``RunSizes.rows``.

    Raises:
        ValueError: ``num_samples`` is below 1, x is no tensor, empty or not finite, or the batch plate subsamples.
        PairError: model and guide do not fit each other, or have no batch plate.
        NonFiniteError: no datum gives finite numbers.
    """

    def __init__(
        self, who: str, model: Program, guide: Program, x: Any, num_samples: int, plate: str | None,
        progress: bool | None, most_rows: int | None = None,
    ) -> None:  # fmt: skip
        check_count(who, "num_samples", num_samples)
        super().__init__(who, x, model, guide, plate, progress)
        self.num_samples, self._most_rows = num_samples, most_rows
        with in_mode(self.modules, training=False):
            head = torch.arange(self.block_of(current_sizes().head))
            self.learn(*self.first_finite(lambda args: Pair(model, guide, args, plate), head))
            self.check_masks(self.pair)
        if self.pair.subsamples:
            raise ValueError(
                f"{who}: plate {self.pair.plate.name!r} takes {self.pair.plate.size} of the data alone, as a "
                f"subsample. Give it all the data that {who} is called with."
            )

    def __iter__(self) -> Iterator[DrawnBlock]:
        rows = rows_a_call(self.pair.outputs, self._most_rows)
        step = min(self.num_samples, rows)
        if self.why_whole is not None:
            step = max(1, min(step, rows // self.size))
        width = self.block_of(max(1, rows // step))
        with self.walk() as bar:
            for start in range(0, self.size, width):
                data = slice(start, min(start + width, self.size))
                block = self.take(data)
                for sample in range(0, self.num_samples, step):
                    done = sample
                    for run in self.pair.run(block, min(step, self.num_samples - sample)):
                        yield DrawnBlock(data, slice(done, done + run.shape[0]), run)
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
