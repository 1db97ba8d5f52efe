"""Bidirectional Monte Carlo: how far annealed importance sampling is from log p(x), on data of the model's own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.ais import DIVERGED, acceptance_and_data
from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.data_error import standard_error_of_mean
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.wording import rounded_error


@dataclass(frozen=True, eq=False)
class BDMC:
    """What :func:`bdmc` returns; everything in nats, float64, on the CPU."""

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
    unit: str = "datum"
    caveat: str | None = None
    """Why these are no bounds on log p(x): the model is unnormalised, or a plate scores a part of x; else None."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have a chain at whose end roundings may move log p(x, u) by more than 0.1 nats, ``(N,)``: its weight
    is NaN, and the datum flagged."""

    @property
    def num_chains(self) -> int:
        """C, chains of each datum, each way."""
        return len(self.log_weights)

    @property
    def lower(self) -> Tensor:
        """The log of the mean forward weight, a lower bound on log p(x) in expectation, ``(N,)``."""
        return LogMean.of(self.log_weights).value

    @property
    def upper(self) -> Tensor:
        """Minus the log of the mean inverse of the reverse weights, an upper bound in expectation, ``(N,)``."""
        return -LogMean.of(-self.reverse_log_weights).value

    @property
    def width(self) -> Tensor:
        """Upper minus lower, ``(N,)``: on average at least what either misses, for one datum also below 0 by chance."""
        return self.upper - self.lower

    @property
    def lower_standard_errors(self) -> Tensor:
        """Monte Carlo standard error of each lower bound, ``(N,)``, over chains, to first order; NaN for one chain."""
        return LogMean.of(self.log_weights).standard_error

    @property
    def upper_standard_errors(self) -> Tensor:
        """The same of each upper bound, *given* the one exact draw that all its chains start from, ``(N,)``."""
        return LogMean.of(-self.reverse_log_weights).standard_error

    @property
    def flagged(self) -> Tensor:
        """Which data are left out of the means, ``(N,)``: no finite bounds, or too many divergent trajectories."""
        return ~self.width.isfinite() | (self.diverged > DIVERGED)

    @property
    def mean_lower(self) -> float:
        """Mean of the lower bounds over the data that are not flagged."""
        return self.lower[~self.flagged].mean().item()

    @property
    def mean_upper(self) -> float:
        """Mean of the upper bounds."""
        return self.upper[~self.flagged].mean().item()

    @property
    def mean(self) -> float:
        """Mean width."""
        return self.width[~self.flagged].mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of the mean width over data, chains and exact draws together; NaN for one datum."""
        return standard_error_of_mean(self.width[~self.flagged])

    def summary(self) -> dict[str, Any]:
        """Return the numbers of ``str(self)``, for a file."""
        return {
            "lower_nats": self.mean_lower,
            "upper_nats": self.mean_upper,
            "width_nats": self.mean,
            "standard_error": self.standard_error,
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_leapfrog": self.num_leapfrog,
            "schedule": self.schedule,
            "start": self.start,
            "acceptance": self.acceptance[~self.flagged].mean().item(),
            "num_data": len(self.diverged),
            "num_flagged": int(self.flagged.sum()),
            "num_unresolved": int(self.unresolved.sum()),
            "caveat": self.caveat,
        }

    def __str__(self) -> str:
        what = "log p(x)" if self.caveat is None else f"no log p(x): {self.caveat};"
        text = (
            f"{what} between {self.mean_lower:.2f} and {self.mean_upper:.2f} nats/{self.unit} (width "
            f"{rounded_error(self.mean)}, s.e. {rounded_error(self.standard_error)}; BDMC from the {self.start}: C = "
            f"{self.num_chains}, T = {self.num_temperatures}; "
            f"{acceptance_and_data(self.acceptance, self.flagged, self.unit)} of the model's own)"
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
    >>> found.lower.shape, found.upper.shape
    (torch.Size([7]), torch.Size([7]))
    """
    annealing = Annealing(num_temperatures, num_chains, num_leapfrog, schedule, step_size, step_size_bounds, burn_in)
    annealer = Annealer("bdmc", model, guide, x, annealing, plate, max_rows, compile, simulated=True)
    found, data = annealer.run(seed, progress, out)
    return BDMC(
        data.cpu(),
        found["log_weight"],
        found["reverse_log_weight"],
        (found["acceptance"].mean(0) + found["reverse_acceptance"].mean(0)) / 2,
        (found["diverged"].mean(0) + found["reverse_diverged"].mean(0)) / 2,
        num_temperatures,
        num_leapfrog,
        schedule,
        annealer.path.start,
        annealer.unit,
        annealer.path.joint.caveat,
        (found["lost"] + found["reverse_lost"]).bool().any(0),
    )
