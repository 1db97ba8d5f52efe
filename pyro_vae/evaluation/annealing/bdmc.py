"""Bidirectional Monte Carlo: how far annealed importance sampling is from log p(x), on data of the model's own."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.ais import DIVERGED, acceptance_and_data
from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.result import BoundResult
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.wording import rounded_error


@dataclass(frozen=True, eq=False, kw_only=True)
class BDMC(BoundResult):
    """What :func:`bdmc` returns; everything in nats, float64, on the CPU.

    The estimates are NaN for data without finite bounds, or with too many divergent trajectories.
    """

    lower: Estimate
    """The log of the mean forward weight, a lower bound on log p(x) in expectation."""
    upper: Estimate
    """Minus the log of the mean inverse of the reverse weights, an upper bound in expectation. Its Monte Carlo errors
    are *given* the one exact draw that all reverse chains of a datum start from."""
    width: Estimate
    """Upper minus lower: on average at least what either misses, for one datum also below 0 by chance. The error over
    data, chains and exact draws together is its ``data_standard_error``."""
    data: Tensor = field(repr=False)
    """What was drawn from the model, ``(N, ...)``, of x's dtype."""
    log_weights: Tensor = field(repr=False)
    """Log w of each forward chain of each datum, ``(num_chains, N)``."""
    reverse_log_weights: Tensor = field(repr=False)
    """Log w of each reverse chain of each datum, ``(num_chains, N)``."""
    acceptance: Tensor = field(repr=False)
    """Mean probability of acceptance of each datum's transitions, both ways, ``(N,)``; NaN for one temperature."""
    diverged: Tensor = field(repr=False)
    """Share of each datum's transitions whose trajectory diverged and was rejected, both ways, ``(N,)``."""
    num_temperatures: int
    num_leapfrog: int
    schedule: str
    start: str = "prior"
    """What the forward chains start from, and the reverse ones end at: "prior" or "guide"."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have a chain at whose end roundings may move log p(x, u) by more than 0.1 nats, ``(N,)``: its weight
    is NaN, and the datum flagged."""

    @classmethod
    def of_weights(
        cls, log_weights: Tensor, reverse_log_weights: Tensor, *, diverged: Tensor, datum: str, **others: Any
    ) -> Self:
        """Return the bounds that chains make.

        Args:
            log_weights: of the forward chains, ``(num_chains, N)``.
            reverse_log_weights: of the reverse chains, ``(num_chains, N)``.
            diverged: share of each datum's divergent transitions, both ways, ``(N,)``.
            datum: what a datum is called.
            others: the other attributes.
        """
        forward, backward = LogMean.of(log_weights), LogMean.of(-reverse_log_weights)
        lower, upper = forward.value, -backward.value
        left_out = ~(upper - lower).isfinite() | (diverged > DIVERGED)

        def bound(values: Tensor, errors: Tensor) -> Estimate:
            return Estimate(values.where(~left_out, math.nan), errors, datum=datum)

        return cls(
            lower=bound(lower, forward.standard_error),
            upper=bound(upper, backward.standard_error),
            width=bound(upper - lower, torch.hypot(forward.standard_error, backward.standard_error)),
            log_weights=log_weights,
            reverse_log_weights=reverse_log_weights,
            diverged=diverged,
            datum=datum,
            **others,
        )

    @property
    def num_chains(self) -> int:
        """C, chains of each datum, each way."""
        return len(self.log_weights)

    @property
    def flagged(self) -> Tensor:
        """Which data are left out of the means, ``(N,)``: no finite bounds, or too many divergent trajectories."""
        return self.width.left_out

    def facts(self) -> dict[str, Any]:
        """Return how chains ran, and what speaks against the numbers."""
        return {
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_leapfrog": self.num_leapfrog,
            "schedule": self.schedule,
            "start": self.start,
            "acceptance": self.acceptance[~self.flagged].mean().item(),
            "num_unresolved": int(self.unresolved.sum()),
            "bound": self.bound,
            "caveat": self.caveat,
        }

    def __str__(self) -> str:
        what = "log p(x)" if self.caveat is None else f"no log p(x): {self.caveat};"
        text = (
            f"{what} between {self.lower.mean:.2f} and {self.upper.mean:.2f} nats/{self.datum} (width "
            f"{rounded_error(self.width.mean)}, s.e. {rounded_error(self.width.data_standard_error)}; BDMC from the "
            f"{self.start}: C = {self.num_chains}, T = {self.num_temperatures}; "
            f"{acceptance_and_data(self.acceptance, self.flagged, self.datum)} of the model's own)"
        )
        return f"{text}; {UNRESOLVED}" if self.unresolved.any() else text


def bdmc(
    model: Program,
    x: Any,
    *,
    guide: Program | None = None,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    schedule: str = "sigmoid",
    step_size: float = 0.1,
    step_size_bounds: tuple[float, float] = (1e-4, 0.5),
    burn_in: int = 100,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    out: str | Path | None = None,
    max_rows: int | None = None,
    compile: str = "auto",
) -> BDMC:
    r"""Bounds on log p(x) from below and above, on data drawn from the model.

    (u, x) is drawn from p(u, x), so that u is an exact draw from p(u | x). Forward chains are those of
    :func:`pyro_vae.ais`, and know nothing of u. Reverse chains start at u and follow the same transitions backwards,
    from the last temperature to the first, with the weight w of the path as if it had been run forward:

    .. math::
        E[w] = p(x) \;\Rightarrow\; E\Big[\log \tfrac1C \textstyle\sum_c w_c\Big] \le \log p(x), \qquad
        E_{\text{reverse}}[1 / w] = 1 / p(x) \;\Rightarrow\;
        E\Big[-\log \tfrac1C \textstyle\sum_c 1 / w_c\Big] \ge \log p(x)

    The second holds because the paths in reverse are those of the density whose ratio to the forward paths' is
    w / p(x); each chain by itself has that law, and Jensen's inequality asks for no more. The C reverse chains of a
    datum share their start, of which there is only one: they are not independent, and their number alone does not
    close the gap. So the standard error of one upper bound is given u, and that of the mean width is taken over data,
    which are independent. Both means are over (x, u); a bound holds on average, not for each datum.

    The width bounds what AIS misses on data *like the model's*; real data can be harder.

    Args, errors: as for :func:`pyro_vae.ais`; of x, only shape, dtype and number matter. The cost is nearly twice as
    high.

    Returns:
        :class:`BDMC`; ``print`` it for one line.

    Raises:
        ValueError: no data can be drawn (soft targets, several observed sites).

    References:
        R. Grosse, Z. Ghahramani, R. Adams (2015), *Sandwiching the marginal likelihood using bidirectional Monte
        Carlo*, arXiv 1511.02543.
        Y. Wu, Y. Burda, R. Salakhutdinov, R. Grosse (2017), *On the quantitative analysis of decoder-based generative
        models*, arXiv 1611.04273.

    >>> import torch
    >>> from pyro_vae.models import LinearGaussian
    >>> found = bdmc(LinearGaussian(x_dim=4, latent_dim=2), torch.zeros(7, 4), num_temperatures=3, num_chains=5)
    >>> found.lower.per_datum.shape, found.upper.per_datum.shape
    (torch.Size([7]), torch.Size([7]))
    """
    annealing = Annealing(num_temperatures, num_chains, num_leapfrog, schedule, step_size, step_size_bounds, burn_in)
    annealer = Annealer("bdmc", model, guide, x, annealing, plate, max_rows, compile, simulated=True)
    found, data = annealer.run(seed, progress, out)
    return BDMC.of_weights(
        found["log_weight"],
        found["reverse_log_weight"],
        diverged=(found["diverged"].mean(0) + found["reverse_diverged"].mean(0)) / 2,
        data=data.cpu(),
        acceptance=(found["acceptance"].mean(0) + found["reverse_acceptance"].mean(0)) / 2,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
        schedule=schedule,
        start=annealer.path.start,
        unresolved=(found["lost"] + found["reverse_lost"]).bool().any(0),
        caveat=annealer.path.joint.caveat,
        datum=annealer.unit,
    )
