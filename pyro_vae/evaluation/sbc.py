"""Simulation-based calibration of an amortized guide."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.guide_draws import GuideDraws
from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.evaluation.result import Result
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.precision import MOST_ROUNDING, UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count
from pyro_vae.runtime.wording import count
from pyro_vae.statistics.uniformity import holm, uniformity_band, uniformity_p_value

LEVEL = 0.05
"""Of the test over all dims together."""

WHY_CONTINUOUS = "its values tie, or have no order, and a rank needs an order without ties"
"""Why a latent site must not be discrete."""


@dataclass(frozen=True, eq=False)
class SBC(Result):
    """What :func:`sbc` returns, on the CPU."""

    columns = MappingProxyType({"num_rejected": "", "smallest_adjusted_p_value": ""})

    ranks: Tensor = field(repr=False)
    """How many of the guide's draws lie below the latent that the datum was drawn with, ``(num_data, dim)``, int64,
    from 0 to ``num_draws``; dims are the unconstrained coordinates. -1 where a mask hides the latent element."""
    p_values: Tensor = field(repr=False)
    """Exact p-value of the ranks' uniformity in each dim, ``(dim,)``, float64; NaN for a dim that all data mask."""
    num_draws: int
    left_out: int = 0
    """Simulated data for which a draw of the guide was NaN or infinite."""
    num_unresolved: int = 0
    """Simulated data whose log p(x, u) roundings may move by more than 0.1 nats: x itself is rounded, so that u is not
    a draw from its posterior."""

    @property
    def adjusted(self) -> Tensor:
        """p-values adjusted for the number of dims by Holm's method, ``(dim,)``."""
        known = ~self.p_values.isnan()
        adjusted = self.p_values.clone()
        adjusted[known] = torch.from_numpy(holm(self.p_values[known].numpy()))
        return adjusted

    @property
    def num_ranks(self) -> Tensor:
        """How many data have each dim, ``(dim,)``."""
        return (self.ranks >= 0).sum(0)

    @property
    def rejected(self) -> Tensor:
        """Dims whose adjusted p-value is at most 0.05, ``(dim,)``."""
        return self.adjusted <= LEVEL

    @property
    def calibrated(self) -> bool:
        """Whether no dim is rejected and no datum left out; False for a calibrated guide in 5 % of runs."""
        return not self.rejected.any() and self.left_out == 0

    @property
    def ecdf_difference(self) -> Tensor:
        """Share of ranks below 1, ..., num_draws minus that of uniform ones, ``(num_draws, dim)``."""
        at = torch.arange(1, self.num_draws + 1, dtype=torch.float64)
        there = self.ranks >= 0
        below = torch.stack([(there & (self.ranks < rank)).sum(0) for rank in at])
        return below.double() / self.num_ranks - (at / (self.num_draws + 1)).unsqueeze(-1)

    def band(self, level: float = 1 - LEVEL, dim: int | None = None) -> tuple[Tensor, Tensor]:
        """Return limits ``(num_draws,)`` between which all of a calibrated dim's ``ecdf_difference`` lies at a level.

        They hold for ``dim``, or for a dim that all data have.
        """
        n, num_ranks = len(self.ranks) if dim is None else int(self.num_ranks[dim]), self.num_draws + 1
        expected = np.arange(1, num_ranks) / num_ranks
        low, high = (torch.from_numpy(limit / n - expected) for limit in uniformity_band(n, num_ranks, level))
        return low, high

    def facts(self) -> dict[str, Any]:
        """Return the verdict, and what it rests on."""
        return {
            "calibrated": self.calibrated,
            "num_data": len(self.ranks),
            "num_draws": self.num_draws,
            "dim": int((~self.p_values.isnan()).sum()),
            "num_rejected": int(self.rejected.sum()),
            "smallest_adjusted_p_value": self.adjusted.nan_to_num(math.inf).min().item(),
            "left_out": self.left_out,
            "num_unresolved": self.num_unresolved,
        }

    def __str__(self) -> str:
        facts = self.facts()
        verdict = "no miscalibration found" if self.calibrated else "not calibrated"
        text = (
            f"{verdict}: ranks of {count(facts['num_data'], 'simulated datum')} among {count(self.num_draws, 'draw')} "
            f"are not uniform in {facts['num_rejected']} of {count(facts['dim'], 'dim')} (smallest p = "
            f"{facts['smallest_adjusted_p_value']:.2g}, adjusted by Holm)"
        )
        if self.num_unresolved:
            text += f"; {UNRESOLVED}"
        left_out = f"{count(self.left_out, 'datum')} left out, whose draws are not finite"
        return f"{text}; {left_out}" if self.left_out else text


def sbc(
    model: Program,
    guide: Program,
    x: Any,
    *,
    num_data: int = 1000,
    num_draws: int = 99,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> SBC:
    r"""Test a guide by simulation-based calibration: rank the z of simulated data among the guide's draws for them.

    .. math::
        z \sim p(z), \quad x \sim p(x | z), \quad z_1, \dots, z_L \sim q(z | x), \quad
        r_d = \#\{l : z_{l,d} < z_d\}

    If q is the posterior, each r_d is uniform on 0, ..., L. Too many ranks at both ends mean that the guide is too
    narrow, in the middle that it is too wide, at one end that its location is off. The test of each dim is exact
    (:func:`pyro_vae.statistics.uniformity.uniformity_p_value`); the p-values are adjusted for their number by Holm's
    method. Ranks are those of the unconstrained coordinates; ties are broken at random.

    Uniform ranks do not prove a guide right. They are averages over data and look at one dim at a time: a guide that
    returns the prior for any x passes, as does one whose dims have the wrong dependence. The data are drawn from the
    model, and a guide that was trained on real data need not be good on them.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate and continuous latent sites, that observes
            one site of the data's size.
        guide: q(z | x).
        x: a template ``(N, ...)``, or a tuple of all positional arguments: simulated data take the place of the first
            tensor, whose values do not matter. Its rows, and those of other tensors of length N, are repeated or cut
            to ``num_data``.
        num_data: simulated data, at least 2.
        num_draws: L, draws of the guide for each, at least 1; ranks take L + 1 values.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of everything drawn; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.

    Raises:
        ValueError: ``num_data`` or ``num_draws`` is too small, a latent site is discrete, or data cannot be drawn from
            the model.
        NonFiniteError: the guide gives finite draws for no datum.
        PairError: model and guide do not fit each other, or have no batch plate.

    References:
        S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018), *Validating Bayesian inference algorithms
        with simulation-based calibration*, arXiv 1804.06788.
        T. Saeilynoja, P.-C. Buerkner, A. Vehtari (2022), *Graphical test for discrete uniformity*, arXiv 2103.10522.
    """
    why = ": a thousand data and 99 draws find a scale that is off by a tenth"
    check_count("sbc", "num_data", num_data, 2, why)
    check_count("sbc", "num_draws", num_draws, 1, why)
    rows = Rows("sbc", x, model, guide, plate, progress)
    rows.refuse_whole("it draws data of its own")
    width = min(num_data, max(2, current_sizes().rows // num_draws))
    with rows.at_rest(seed), rows.bar(num_data, " data") as bar:
        template = rows.take(torch.arange(width) % rows.size)
        joint = Joint("sbc", model, template, plate, why_continuous=WHY_CONTINUOUS)
        guide_draws = GuideDraws(joint, model, guide, template, plate)
        rows.check_masks(joint, guide_draws.pair)
        ranks, finite, unresolved = [], [], 0
        for start in range(0, num_data, width):
            # All blocks have one size, as a model may ask for; the last one is cut.
            size = min(width, num_data - start)
            args, truth = joint.simulate(rows.take(torch.arange(start, start + width) % rows.size))
            u, _ = guide_draws.draw(args, num_draws)
            counted = joint.counted(args)
            there = torch.ones_like(truth[0], dtype=torch.bool) if counted is None else counted
            ranks.append(torch.where(there, _ranks(truth[0], u), -1)[:size].cpu())
            finite.append((u.isfinite().all(0) & truth[0].isfinite() | ~there).all(-1)[:size].cpu())
            unresolved += int((joint.rounding(args, truth)[0, :size] > MOST_ROUNDING).sum())
            bar.update(size)
    usable = torch.cat(finite)
    if not usable.any():
        raise NonFiniteError(f"sbc: the guide's draws are NaN or infinite for all of {num_data} simulated data.")
    usable_ranks = torch.cat(ranks)[usable]
    columns = [column[column >= 0] for column in usable_ranks.unbind(1)]
    p_values = [uniformity_p_value(column.numpy(), num_draws + 1) if len(column) else math.nan for column in columns]
    left_out = num_data - len(usable_ranks)
    return SBC(usable_ranks, torch.tensor(p_values, dtype=torch.float64), num_draws, left_out, unresolved)


def _ranks(truth: Tensor, u: Tensor) -> Tensor:
    """Return how many of u ``(num_draws, batch, dim)`` lie below the truth ``(batch, dim)``, ties broken at random."""
    below, equal = (u < truth).sum(0), (u == truth).sum(0)
    return below + (torch.rand_like(truth) * (equal + 1)).floor().long().clamp(max=equal)
