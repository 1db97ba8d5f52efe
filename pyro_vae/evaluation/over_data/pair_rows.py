"""A pair and its data, once the pair was run on the first of them: what all walks over data know of it."""

from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.precision import Rounding
from pyro_vae.protocols import Program


class _Widens(Protocol):
    """A joint density, or a pair."""

    def widen(self, x: Any) -> None:
        """Compute in float64 from now on where float32 would lose too much on these data."""


class PairRows(Rows):
    """The arguments of a pair by data, and the pair.

    A subclass makes the pair on some of the data, with the modules in evaluation mode, and hands it to :meth:`learn`.

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: q(z | x).
        x: data, or a tuple of all arguments, of which tensors as long as the first are cut into blocks.
        plate: the batch plate's name, where several would do.
        progress: show bars; None shows them on a terminal only.

    Raises:
        ValueError: x is no tensor, empty or not finite, or the batch plate holds something else than its rows.
    """

    pair: Pair

    def __init__(
        self, who: str, model: Program, guide: Program, x: Any, plate: str | None, progress: bool | None = None
    ) -> None:
        super().__init__(who, x, model, guide, plate, progress)
        self.model, self.guide, self.plate = model, guide, plate

    def learn(self, pair: Pair, seen: slice | Tensor, *others: _Widens) -> None:
        """Take a pair, and have it look at the data that are far from those that it was made with.

        Args:
            pair: of the model and the guide.
            seen: the data that it was made with.
            others: what else is to compute in float64 where one of all data calls for that.

        Raises:
            PairError: the guide draws angles from the whole line, where the model's law repeats.
        """
        self.pair, self._seen, self._far = pair, seen, list(self.far_blocks(seen))
        for index in self._far:
            block = self.take(index)
            for part in (pair, *others):
                part.widen(block)
        pair.check_circles()

    @cached_property
    def rounding(self) -> Rounding:
        """How large the roundings in log-weights are: the largest of the first data, for all that are like them.

        Data far from those have their own.
        """
        with in_mode(self.modules, training=False):
            errors, magnitudes = self.pair.roundings(self.take(self._seen))
            rounding = Rounding(errors.max().repeat(self.size), magnitudes.max().repeat(self.size))
            for index in self._far:
                errors, magnitudes = self.pair.roundings(self.take(index))
                # Data are repeated to fill a block.
                rounding.error.scatter_reduce_(0, index, errors, "amax", include_self=False)
                rounding.magnitude.scatter_reduce_(0, index, magnitudes, "amax", include_self=False)
        return rounding
