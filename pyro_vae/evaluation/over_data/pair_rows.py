"""A pair and its data, and what a first run of the pair tells: its structure, its dtype, its roundings."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.rows import Rows, rows_a_call
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.precision import Rounding
from pyro_vae.protocols import Program

Made = TypeVar("Made")


class PairRows(Rows):
    """The arguments of a pair by data, and the pair.

    A subclass makes the pair on some of the data, with the modules in evaluation mode, and hands it to :meth:`learn`.
    """

    pair: Pair

    def __init__(
        self, who: str, x: Any, model: Program, guide: Program, plate: str | None, progress: bool | None = None
    ) -> None:
        super().__init__(who, x, model, guide, plate, progress)
        self.model, self.guide = model, guide

    def first_finite(
        self, make: Callable[[tuple[Any, ...]], Made], among: Tensor, width: int | None = None
    ) -> tuple[Made, Tensor]:
        """Return what is made with some of the data, and which data these are: half of them where one is not finite.

        Args:
            make: takes the arguments with the data.
            among: the numbers of the data to try.
            width: how many data the arguments hold, where the data are repeated to fill them; None repeats none.

        Raises:
            NonFiniteError: no datum gives finite numbers, or the programs take all data at once.
        """
        index = among if width is None else among[torch.arange(width) % len(among)]
        try:
            return make(self.take(index)), index
        except NonFiniteError:
            if len(among) < 2 or self.why_whole is not None:
                raise
        first, second = among.tensor_split(2)
        try:
            return self.first_finite(make, first, width)
        except NonFiniteError:
            return self.first_finite(make, second, width)

    def learn(self, pair: Pair, seen: slice | Tensor, *joints: Joint) -> None:
        """Take a pair, and run it on the data that are far from those that it was made with.

        Args:
            pair: of the model and the guide.
            seen: the data that it was made with.
            joints: joint densities that compute in float64, too, where one of all data calls for that.

        Raises:
            PairError: the guide draws angles from the whole line, where the model's law repeats.
        """
        self.pair, self._seen, self._far = pair, seen, list(self.far_blocks(seen))
        for index in self._far:
            block = self.take(index)
            pair.widen(block)
            for joint in joints:
                joint.pair.widen(block)
        pair.check_circles()

    @cached_property
    def rounding(self) -> Rounding:
        """How large the roundings in log-weights are."""
        return self.measure_rounding(rows_a_call(self.pair.outputs))

    def measure_rounding(self, most_rows: int) -> Rounding:
        """Measure how large the roundings in log-weights are.

        Data that are far from the first ones have their own, all others the largest of the first data.

        Args:
            most_rows: the most rows of a run.
        """
        with in_mode(self.modules, training=False):
            errors, magnitudes = self.pair.roundings(self.take(self._seen), most_rows)
            rounding = Rounding(errors.max().repeat(self.size), magnitudes.max().repeat(self.size))
            for index in self._far:
                errors, magnitudes = self.pair.roundings(self.take(index), most_rows)
                # Data are repeated to fill a block.
                rounding.error.scatter_reduce_(0, index, errors, "amax", include_self=False)
                rounding.magnitude.scatter_reduce_(0, index, magnitudes, "amax", include_self=False)
        return rounding
