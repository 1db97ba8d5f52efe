"""Chains of all data, annealed a piece at a time, forward and, for bidirectional Monte Carlo, in reverse."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path as FilePath
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.errors import OutOfMemoryError
from pyro_vae.evaluation.annealing.chains import Annealed, Annealing
from pyro_vae.evaluation.annealing.density_path import Path
from pyro_vae.evaluation.annealing.hmc import At
from pyro_vae.evaluation.annealing.pieces import Piece, Record, fingerprint, pieces_of
from pyro_vae.evaluation.over_data.rows import Rows, rows_a_call
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.graphs.capture import unlike
from pyro_vae.graphs.levels import TermDraws, check_level
from pyro_vae.programs.modules import in_mode
from pyro_vae.programs.precision import MOST_ROUNDING
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_seed
from pyro_vae.runtime.memory import is_out_of_memory, keep_freed_memory
from pyro_vae.runtime.progress import progress_bar
from pyro_vae.runtime.random_state import unmoved_generators
from pyro_vae.runtime.wording import in_one_line

FORWARD = ("log_weight", "acceptance", "diverged", "lost")
REVERSE = ("reverse_log_weight", "reverse_acceptance", "reverse_diverged", "reverse_lost")

TRIALS = 3
"""Evaluations in each of two trials by which "auto" learns the pace; the fastest of a trial counts."""


class Annealer:
    """Anneals chains of all data of a model.

    Args:
        who: the caller, for messages.
        model: p(x, z).
        guide: what chains start from; None for the prior.
        x: data, or a tuple of all arguments, of which tensors as long as the first are cut into blocks.
        annealing: the settings of the chains.
        plate: the batch plate's name, where several would do.
        max_rows: chains times data of one evaluation, at most; None for a cacheful.
        compile: at which level, one of :data:`pyro_vae.graphs.levels.LEVELS`.
        simulated: anneal data drawn from the model, of x's shape; and anneal them in reverse, too, from the latent
            coordinates that they were drawn with.
    """

    def __init__(
        self, who: str, model: Program, guide: Program | None, x: Any, annealing: Annealing, plate: str | None,
        max_rows: int | None, compile: str, simulated: bool = False,
    ) -> None:  # fmt: skip
        annealing.check(who)
        check_level(who, compile)
        if max_rows is not None:
            check_count(who, "max_rows", max_rows)
        self._who, self._annealing, self._level, self._simulated = who, annealing, compile, simulated
        self._rows = Rows(who, x, model, guide, plate)
        self._modules, self.size, self.unit = self._rows.modules, self._rows.size, self._rows.unit
        self._make_path = partial(Path, who, model, guide, plate=plate)
        with in_mode(self._modules, training=False):
            head = self._head()
            if not simulated:
                self._rows.check_support(model, head)
            self.path = self._path_of(head)
            self._rows.check_masks(*self.path.parts)
        rows = max_rows or rows_a_call(self.path.joint.pair.outputs)
        self._transitions = annealing.num_pilot_transitions + annealing.num_transitions * (1 + simulated)
        """Of a piece: the pilot's, and those of the chains that count, both ways."""
        self._pieces = pieces_of(annealing.num_chains, self.size, rows, self._rows.why_whole is not None)
        self._chains, self._width = self._pieces[0].shape

    def run(
        self, seed: int | None, progress: bool | None, out: str | FilePath | None
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """Anneal the pieces that are not finished yet.

        Returns:
            The numbers by name, each ``(num_chains, N)``, float64; and the data.
        """
        if seed is not None:
            check_seed(self._who, seed)
        keep_freed_memory()
        shape = (self._annealing.num_chains, self.size)
        record = Record(
            self._who, out, self._settings(), seed, FORWARD + REVERSE * self._simulated, shape, len(self._pieces)
        )
        with unmoved_generators(), self._rows.at_rest():
            try:
                exact = self._simulate(record.piece_seed(-1)) if self._simulated else None
                if not record.done.all():
                    self._run(record, exact, progress)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                rows = self._chains * self._width
                raise OutOfMemoryError(
                    f"{self._who}: out of memory with {rows} rows (chains x data) an evaluation. Pass a smaller "
                    f"max_rows. It said: {in_one_line(error)}"
                ) from error
        return record.values, self._rows.args[0]

    def facts(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return how the chains ran, as :class:`pyro_vae.evaluation.annealing.ais.AnnealedResult` holds it.

        Args:
            values: what :meth:`run` returned; the acceptance and the divergent share are means over both ways.
        """
        ways = ("", "reverse_") if self._simulated else ("",)
        return {
            "acceptance": sum(values[f"{way}acceptance"].mean(0) for way in ways) / len(ways),
            "diverged": sum(values[f"{way}diverged"].mean(0) for way in ways) / len(ways),
            "num_temperatures": self._annealing.num_temperatures,
            "num_leapfrog": self._annealing.num_leapfrog,
            "schedule": self._annealing.schedule,
            "start": self.path.start,
            "unresolved": torch.cat([values[f"{way}lost"] for way in ways]).bool().any(0),
            "caveat": self.path.joint.pair.caveat,
            "given": self.path.joint.pair.given,
            "datum": self.unit,
        }

    def _run(self, record: Record, exact: Tensor | None, progress: bool | None) -> None:
        draws = self._draws(record)
        record.level = draws.level
        total, done = self._transitions * len(record.done), self._transitions * int(record.done.sum())
        with progress_bar(total, " transitions", self._who, shown=progress, initial=done) as bar:
            for piece in self._pieces:
                if not record.done[piece.index]:
                    torch.manual_seed(record.piece_seed(piece.index))
                    record.put(piece, self._anneal(draws, piece, exact, bar))
                    bar.refresh()

    def _anneal(self, draws: TermDraws, piece: Piece, exact: Tensor | None, bar: "tqdm[Any]") -> dict[str, Tensor]:
        block = self._block(piece.first, self._width)
        at: At = draws.on(*block)
        chains, counted = self._chains, self.path.joint.counted(block)

        def held(u: Tensor) -> tuple[At, Tensor]:
            return (at if counted is None else _held(at, counted, u)), u

        # The pilot has draws of its own: its step sizes are independent of the chains that count.
        sizes = self._annealing.step_sizes(*held(self.path.draw(block, chains)), bar.update)
        runs = [self._annealing.run(*held(self.path.draw(block, chains)), sizes, bar.update)]
        if exact is not None:
            u = exact[:, piece.first : piece.first + self._width].to(self._rows.device)
            runs.append(self._annealing.run(*held(u.repeat(chains, 1, 1)), sizes, bar.update, reverse=True))
        numbers = [number for run in runs for number in self._numbers(block, run)]
        return dict(zip(FORWARD + REVERSE * (exact is not None), numbers, strict=True))

    def _numbers(self, block: tuple[Any, ...], run: Annealed) -> list[Tensor]:
        """Return the numbers that :data:`FORWARD` names.

        A weight is NaN where roundings may move log p(x, u) at the end of its chain by more than 0.1 nats.
        """
        lost = (self.path.joint.rounding(block, run.u) > MOST_ROUNDING).to(run.log_weight.device)
        return [run.log_weight.masked_fill(lost, math.nan), run.acceptance, run.diverged, lost]

    def _draws(self, record: Record) -> TermDraws:
        """Return how log-densities and slopes are evaluated: at the level of the pieces that are finished.

        Where none is, the level is chosen before the first: it changes roundings, and with them the chains' paths.
        """
        width, chains = self._width, self._chains
        block, last = self._block(0, width), self._block(self.size - width, width)
        other = tuple(unlike(arg) if isinstance(arg, Tensor) and arg.ndim else arg for arg in last)
        blocks = [(*args, self.path.draw(args, chains)) for args in (block, other)]
        calls = len(self._pieces) * (self._transitions * self._annealing.num_leapfrog + 2)
        draws = TermDraws(
            self._who, lambda *values: self.path.at(values[:-1], values[-1]), blocks, self._modules,
            record.level or self._level, calls, self.path.vectorizes, varying=1,
        )  # fmt: skip
        at, u = draws.on(*block), blocks[0][-1]
        for _ in range(2 if self._level == "auto" and record.level is None else 0):
            took = []
            for _ in range(TRIALS):
                begin = perf_counter()
                # Reading a number waits for an asynchronous device.
                at(u)[0].sum().item()
                took.append(perf_counter() - begin)
            draws.spent(min(took), calls)
        return draws

    def _simulate(self, seed: int) -> Tensor:
        """Replace x by data drawn from the model, and return their latent coordinates ``(1, N, dim)``."""
        torch.manual_seed(seed)
        rows = self._chains * self._width
        data, coordinates = [], []
        for start in range(0, self.size, rows):
            args, u = self.path.joint.simulate(self._block(start, min(rows, self.size - start)))
            data.append(args[0].to(self._rows.args[0].device))
            coordinates.append(u.cpu())
        self._rows.args = (torch.cat(data), *self._rows.args[1:])
        # Roundings depend on the data, which are others now.
        self.path = self._path_of(self._head())
        return torch.cat(coordinates, 1)

    def _settings(self) -> dict[str, Any]:
        return {
            "what": self._who,
            **asdict(self._annealing),
            "step_size_bounds": list(self._annealing.step_size_bounds),
            "start": self.path.start,
            "rows": [self._chains, self._width],
            "compile": self._level,
            "numbers": list(FORWARD),
            **fingerprint(self._rows.args, self._modules),
        }

    def _path_of(self, head: tuple[Any, ...]) -> Path:
        """Make the path with the first data, and let data far from them decide whether it computes in float64."""
        path = self._make_path(head)
        for index in self._rows.far_blocks(slice(0, len(head[0]))):
            block = self._rows.take(index)
            for pair in path.pairs:
                pair.widen(block)
        return path

    def _head(self) -> tuple[Any, ...]:
        """Return the first data, or all of them for programs that take no other number."""
        return self._block(0, self._rows.block_of(current_sizes().head))

    def _block(self, start: int, width: int) -> tuple[Any, ...]:
        """Return the arguments with ``width`` data from ``start`` on, on the parameters' device."""
        return self._rows.take(slice(start, start + width))


def _held(at: At, counted: Tensor, start: Tensor) -> At:
    """Return log-densities in which masked coordinates stay at their start, with slopes of 0."""

    def held(u: Tensor) -> list[Tensor]:
        base, ratio, *slopes = at(torch.where(counted, u, start))
        return [base, ratio, *(torch.where(counted, slope, torch.zeros_like(slope)) for slope in slopes)]

    return held
