"""The arguments of a model and a guide, cut into blocks of data, and how the programs are run on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, device
from tqdm import tqdm

from pyro_vae.errors import PairError
from pyro_vae.evaluation.over_data.few import Cut, FewData, numbers_tried
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.missing import all_finite, check_finite_rows, check_not_empty
from pyro_vae.programs.modules import data_args, in_mode, modules_of, num_rows, take_rows
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.support import check_support
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import keep_freed_memory
from pyro_vae.runtime.progress import progress_bar
from pyro_vae.runtime.random_state import seeded

FAR = 2
"""Data with a number this many times larger than any of the first data may have larger roundings than these."""


def rows_a_call(outputs: int, most: int | None = None) -> int:
    """Return how many rows a decoder call takes.

    Args:
        outputs: numbers that the decoder returns for a row.
        most: the most rows; None takes the current ``RunSizes.rows``.
    """
    sizes = current_sizes()
    return min(sizes.rows if most is None else most, max(1, sizes.values // max(1, outputs)))


class Rows:
    """The arguments of a pair, by data: those that are per datum are cut, the others are handed on whole.

    An argument is per datum if it is a tensor or a packed batch of sequences as long as the first tensor, and if the
    pair, run on a few data, gives them the log-joint that they have among others. An argument that only happens to be
    as long, as a grid of times, is whole.

    Args:
        who: the caller, for messages.
        x: data ``(N, ...)``, or a tuple of all positional arguments that starts with them.
        model: p(x, z); None where only the guide is run.
        guide: q(z | x); None where only the model is run.
        plate: the batch plate's name, where several would do.
        progress: show bars; None shows them on a terminal only.

    Raises:
        ValueError: x is no tensor, is empty or not finite, or the batch plate holds something else than its rows.
    """

    def __init__(
        self,
        who: str,
        x: Any,
        model: Program | None = None,
        guide: Program | None = None,
        plate: str | None = None,
        progress: bool | None = None,
    ) -> None:
        self.who, self.plate, self._progress = who, plate, progress
        programs = [program for program in (model, guide) if program is not None]
        self.args = data_args(who, x, *programs)
        """All arguments."""
        first = self.args[0]
        check_not_empty(f"{who}: x", first)
        self.size = len(first)
        """N."""
        self.modules = modules_of(*programs)
        self.device: device = next((p.device for m in self.modules for p in m.parameters()), first.device)
        self.unit = "image" if first.ndim > 2 else "datum"
        """What a datum is called."""
        self.per_datum: Cut = tuple(num_rows(arg) == self.size for arg in self.args)
        """Which arguments are cut."""
        self.why_whole: str | None = None
        """Why the programs take all data at once and no other number of them; None where they take any number."""
        if not all_finite(first):
            check_finite_rows(f"{who}: x", self.take(slice(None)), model, guide)
        if programs:
            with in_mode(self.modules, training=False):
                self.per_datum, self.why_whole = FewData(self, model, guide).find()

    def take(self, rows: slice | Tensor, per_datum: Cut | None = None) -> tuple[Any, ...]:
        """Return the arguments with the given data, on the programs' device.

        Args:
            rows: which data.
            per_datum: which arguments are cut; None takes :attr:`per_datum`.
        """
        cut = [
            take_rows(arg, rows) if each else arg
            for arg, each in zip(self.args, per_datum or self.per_datum, strict=True)
        ]
        return tuple(arg.to(self.device) if hasattr(arg, "to") else arg for arg in cut)

    def block_of(self, most: int) -> int:
        """Return how many data a block has: all where the programs take no other number, else ``most`` at most."""
        return self.size if self.why_whole is not None else min(self.size, most)

    @contextmanager
    def at_rest(self, seed: int | None = None) -> Iterator[None]:
        """Run the programs as they are evaluated: in evaluation mode, without gradients and Pyro's validation.

        Args:
            seed: of all noise; None draws from the global generator.
        """
        with seeded(seed), torch.no_grad(), in_mode(self.modules, training=False), pyro.validation_enabled(False):
            yield

    def bar(self, total: int, unit: str) -> "tqdm[Any]":
        """Return a progress bar."""
        return progress_bar(total, unit, self.who, shown=self._progress)

    @contextmanager
    def walk(self) -> Iterator["tqdm[Any]"]:
        """Run the programs at rest, many times, with a bar that counts the data that are done."""
        keep_freed_memory()
        with self.at_rest(), self.bar(self.size, " data") as bar:
            yield bar

    def check_support(self, model: Program, head: tuple[Any, ...]) -> None:
        """Refuse data outside the likelihood's support, where they are the model's only argument.

        Args:
            model: p(x, z).
            head: some of the data, to run the model on.

        Raises:
            SupportError: names the first datum outside.
        """
        if len(self.args) == 1:
            check_support(model, self.take(slice(None))[0], head[0])

    def check_masks(self, *parts: Pair | Joint) -> None:
        """Check all data against the masks on latent sites, where there are any.

        Raises:
            PairError, ValueError: as ``check_masks`` of the parts.
        """
        masked = [part for part in parts if part.masked]
        for index in self._blocks(torch.arange(self.size if masked else 0)):
            block = self.take(index)
            for part in masked:
                part.check_masks(block)

    def _blocks(self, which: Tensor) -> Iterator[Tensor]:
        """Give some of the data in blocks of one size, as a program may need; the first ones fill up the last block."""
        width = self.block_of(current_sizes().head)
        for start in range(0, len(which), width):
            yield which[torch.arange(start, start + width) % len(which)]

    def far_blocks(self, seen: slice | Tensor) -> Iterator[Tensor]:
        """Give the data with a number far above those of the data seen, a block at a time: they may round otherwise.

        Programs that take all data at once have seen them all.

        Args:
            seen: the data that a pair or a joint density was made with.
        """
        sizes, width = torch.zeros(self.size, dtype=torch.float64), current_sizes().head
        for arg, each in zip(self.args, self.per_datum, strict=True):
            if each and isinstance(arg, Tensor) and arg.dtype != torch.bool and arg.numel():
                for start in range(0, self.size, width):
                    rows = slice(start, start + width)
                    largest = arg[rows].detach().reshape(len(arg[rows]), -1).abs().nan_to_num(0.0, 0.0, 0.0).amax(1)
                    sizes[rows] = torch.maximum(sizes[rows], largest.double().cpu())
        if self.why_whole is None:
            yield from self._blocks((sizes > FAR * sizes[seen].max()).nonzero().flatten())

    def refuse_whole(self, needs: str) -> None:
        """Refuse programs that take all data at once and no other number of them.

        Args:
            needs: what the caller does, to end "and ...".

        Raises:
            PairError: says why they take no other number.
        """
        if self.why_whole is not None:
            tried = numbers_tried(self.size)[0]
            raise PairError(
                f"{self.who}: model and guide take all {self.size} data at once and no other number of them, and "
                f"{needs}. Parameters of each datum (AutoNormal) or a plate of a fixed size do that: read the "
                f"parameters off x, and make the plate as pyro.plate('data', len(x)). Tried on {tried} "
                f"data: {self.why_whole}"
            )
