"""Bidirectional Monte Carlo: the error of annealed importance sampling, on data drawn from the model."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.ais import DIVERGED, AnnealedResult
from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.wording import rounded_error


@dataclass(frozen=True, eq=False, kw_only=True)
class BDMC(AnnealedResult):
    """What :func:`bdmc` returns; everything in nats, float64, on the CPU.

    The estimates are NaN for data without finite bounds, or with too many divergent trajectories.
    """

    lower: Estimate
    """The log of the mean forward weight, a lower bound on log p(x) in expectation."""
    upper: Estimate
    """Minus the log of the mean inverse of the reverse weights, an upper bound in expectation. Its Monte Carlo errors
    are *given* the one exact draw that all reverse chains of a datum start from."""
    width: Estimate
    """Upper minus lower: on average at least the error of each bound; for one datum it may be below 0 by chance. Its
    ``data_standard_error`` is the error over data, chains and exact draws together."""
    data: Tensor = field(repr=False)
    """The data drawn from the model, ``(N, ...)``, of x's dtype."""
    reverse_log_weights: Tensor = field(repr=False)
    """Log w of each reverse chain of each datum, ``(num_chains, N)``."""

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

    def __str__(self) -> str:
        what = self.evidence_in_words if self.caveat is None else f"no {self.evidence_in_words}: {self.caveat};"
        text = (
            f"{what} between {self.lower.mean:.2f} and {self.upper.mean:.2f} nats/{self.datum} (width "
            f"{rounded_error(self.width.mean)}, s.e. {rounded_error(self.width.data_standard_error)}; BDMC from the "
            f"{self.start}: C = {self.num_chains}, T = {self.num_temperatures}; "
            f"{self.acceptance_and_data} of the model's own)"
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
    r"""Estimate bounds on log p(x) from below and above, on data drawn from the model.

    (u, x) is drawn from p(u, x), so that u is an exact draw from p(u | x). Forward chains are those of
    :func:`pyro_vae.ais`, and know nothing of u. Reverse chains start at u and follow the same transitions backwards,
    from the last temperature to the first, with the weight w of the path as if it had been run forward:

    .. math::
        E[w] = p(x) \;\Rightarrow\; E\Big[\log \tfrac1C \textstyle\sum_c w_c\Big] \le \log p(x), \qquad
        E_{\text{reverse}}[1 / w] = 1 / p(x) \;\Rightarrow\;
        E\Big[-\log \tfrac1C \textstyle\sum_c 1 / w_c\Big] \ge \log p(x)

    The second bound holds because the density of a reverse path over that of the same forward path is w / p(x). Each
    chain by itself has this law, and Jensen's inequality needs no more. The C reverse chains of a datum share their
    start u: they are not independent, and more chains alone do not close the gap. The standard error of one upper bound
    is therefore conditional on u, and that of the mean width is taken over data, which are independent. Both means are
    over (x, u); a bound holds on average, not for each datum.

    The width bounds the error of AIS on data *drawn from the model*; real data can be harder.

    The arguments and errors are those of :func:`pyro_vae.ais`; of x, only shape, dtype and number of data matter. The
    cost is nearly twice as high.

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
    >>> result = bdmc(LinearGaussian(x_dim=4, latent_dim=2), torch.zeros(7, 4), num_temperatures=3, num_chains=5)
    >>> result.lower.per_datum.shape, result.upper.per_datum.shape
    (torch.Size([7]), torch.Size([7]))
    """
    annealing = Annealing(num_temperatures, num_chains, num_leapfrog, schedule, step_size, step_size_bounds, burn_in)
    annealer = Annealer("bdmc", model, guide, x, annealing, plate, max_rows, compile, simulated=True)
    values, data = annealer.run(seed, progress, out)
    return BDMC.of_weights(
        values["log_weight"], values["reverse_log_weight"], data=data.cpu(), **annealer.facts(values)
    )
