"""Annealed importance sampling: the evidence without a guide, or with one as the start."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.evaluation.annealing.annealer import Annealer
from pyro_vae.evaluation.annealing.chains import Annealing
from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.result import BoundResult
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.wording import count

DIVERGED = 0.05
"""Share of divergent transitions above which a datum is flagged: chains hardly move where they diverge."""

UNDERSTATED = 0.5
"""Nats of standard error above which about four chains or fewer carry the weight of a datum.

A first-order error is at most 1 nat, however much of the evidence is missing: that of one chain with all the weight.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnealedResult(BoundResult):
    """The base of results of annealed chains: their forward weights, and how they ran."""

    log_weights: Tensor = field(repr=False)
    """Log w of each forward chain of each datum, ``(num_chains, N)``."""
    acceptance: Tensor = field(repr=False)
    """Mean probability of acceptance of each datum's transitions, ``(N,)``; NaN for one temperature, which has none."""
    diverged: Tensor = field(repr=False)
    """Share of each datum's transitions whose trajectory diverged and was rejected, ``(N,)``."""
    num_temperatures: int
    num_leapfrog: int
    schedule: str
    start: str = "prior"
    """The law that forward chains start from, and reverse ones end at: "prior" or "guide"."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have a chain at whose end roundings may move log p(x, u) by more than 0.1 nats, ``(N,)``: its weight
    is NaN, and the datum flagged."""

    @property
    def flagged(self) -> Tensor:
        """Which data are left out of the means, ``(N,)``: no finite estimate, or too many divergent trajectories."""
        return next(iter(self.estimates.values())).left_out

    @property
    def num_chains(self) -> int:
        """C, chains of each datum, each way."""
        return len(self.log_weights)

    @property
    def ess(self) -> Tensor:
        """Effective number of forward chains (sum w)^2 / sum w^2 of each datum, ``(N,)``."""
        return LogMean.of(self.log_weights).ess

    def facts(self) -> dict[str, Any]:
        """Return how chains ran, and what speaks against the numbers."""
        in_mean = ~self.flagged
        return {
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_leapfrog": self.num_leapfrog,
            "schedule": self.schedule,
            "start": self.start,
            "acceptance": self.acceptance[in_mean].mean().item(),
            "median_ess": self.ess[in_mean].median().item() if in_mean.any() else math.nan,
            "num_unresolved": int(self.unresolved.sum()),
            "bound": self.bound,
            "caveat": self.caveat,
        }

    @property
    def acceptance_and_data(self) -> str:
        """The share of the proposals that was accepted, and how many data a mean is over, in words."""
        share = self.acceptance[~self.flagged].mean().item()
        words = "" if math.isnan(share) else f"acceptance {share:.2f}; "
        words += count(len(self.flagged), self.datum)
        return f"{words}, {int(self.flagged.sum())} flagged and left out" if self.flagged.any() else words


@dataclass(frozen=True, eq=False, kw_only=True)
class AIS(AnnealedResult, Estimate):
    """What :func:`ais` returns: an estimate of log p(x), in nats, float64, on the CPU.

    ``per_datum`` is the log of the mean weight of each datum, a lower bound on log p(x) in expectation; NaN where there
    is no finite estimate, or where too many trajectories diverged. Its Monte Carlo ``standard_errors`` are taken over
    chains, to first order, and NaN for one chain.
    """

    columns = MappingProxyType({"log_likelihood": "higher"})

    @classmethod
    def of_weights(cls, log_weights: Tensor, *, diverged: Tensor, **others: Any) -> Self:
        """Return the estimates that chains make.

        Args:
            log_weights: ``(num_chains, N)``.
            diverged: share of each datum's divergent transitions, ``(N,)``.
            others: the other attributes.
        """
        log_mean = LogMean.of(log_weights)
        left_out = ~log_mean.value.isfinite() | (diverged > DIVERGED)
        return cls(
            per_datum=log_mean.value.where(~left_out, math.nan),
            standard_errors=log_mean.standard_error,
            log_weights=log_weights,
            diverged=diverged,
            **others,
        )

    @property
    def few_effective(self) -> Tensor:
        """Which data in the mean have a standard error above 0.5 nats, ``(N,)``.

        Few of their chains carry the weight: the bound is loose, and its error, of first order, too small.
        """
        return (self.standard_errors > UNDERSTATED) & ~self.left_out

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The log-likelihood."""
        return {"log_likelihood": self}

    def tensors(self) -> dict[str, Tensor]:
        """Return the effective number of chains, their acceptance and the divergent share of each datum."""
        return {"ess": self.ess, "acceptance": self.acceptance, "diverged": self.diverged}

    def facts(self) -> dict[str, Any]:
        """Return how chains ran, and what speaks against the numbers."""
        return super().facts() | {"num_few_effective": int(self.few_effective.sum())}

    def __str__(self) -> str:
        kind = f"{self.evidence_in_words} >=" if self.bound else f"no log-likelihood ({self.caveat}):"
        size = f"{count(self.num_chains, 'chain')} x {count(self.num_temperatures, 'temperature')}"
        text = (
            f"{kind} {self.mean:.2f} nats/{self.datum} (AIS from the {self.start}: {size}; {self.errors_in_words}; "
            f"{self.acceptance_and_data})"
        )
        if self.few_effective.any():
            text += (
                f"; few chains carry the weight of {int(self.few_effective.sum())} of "
                f"{count(self.num_data, self.datum)} (s.e. > {UNDERSTATED}): the bound is loose and its Monte Carlo "
                f"error understated. Use more temperatures"
            )
        return f"{text}; {UNRESOLVED}" if self.unresolved.any() else text


def ais(
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
) -> AIS:
    r"""Estimate log p(x) of each datum by annealed importance sampling, from the prior or a guide to the posterior.

    .. math::
        \log \hat p(x) = \log \frac{1}{C} \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^T (b_t - b_{t-1}) \log \frac{p(x, u_{t-1})}{q_0(u_{t-1})}

    in unconstrained coordinates u (:class:`pyro_vae.programs.joint.Joint`). u_0 is drawn from q_0, the prior or the
    guide; u_t follows from u_{t-1} by one transition of Hamiltonian Monte Carlo that leaves q_0^{1 - b_t} p(x, .)^{b_t}
    invariant. The mean of w is p(x) for any number of temperatures, so that log p^(x) is a lower bound on log p(x) in
    expectation. The bound is tight for many temperatures.

    **Step sizes** differ between chains and data. A pilot run with draws of its own anneals as many chains in
    ``burn_in`` transitions; after each, it moves the logarithm of each step size by 0.2 (acceptance - 0.65) and records
    it. The run that gives the weights takes the pilot's step sizes at the same part of the schedule and adapts nothing:
    its kernels depend on the pilot alone, which is independent of it, so that the mean of w is exactly p(x). Each
    transition takes a random share of its step size, from 0.4 to 1: trajectories of one length would return to their
    start in some directions.

    **Divergent trajectories**, whose energy error is not finite or above 1000 nats, are rejected and counted. A datum
    with more than 5 % of them, or with a weight that is NaN or infinite, is flagged and left out of the means. A weight
    is NaN where roundings may move log p(x, u) at the chain's end by more than 0.1 nats (:attr:`AIS.unresolved`).

    **Heavy tails**: where few chains carry the weight (:attr:`AIS.few_effective`), the bound is loose and its error, of
    first order, too small. Such data stay in the mean; ``str()`` and :meth:`AIS.facts` say how many there are.

    **Cost**: (num_temperatures - 1 + burn_in) x num_leapfrog x num_chains decoder passes, forward and backward, for
    each image: 176 000 by default. Twice the temperatures halve the distance to log p(x), roughly.

    ``max_rows`` chains x data are annealed at a time: besides the result, memory grows neither with N nor with chains
    or temperatures. Modules run in evaluation mode and return to the mode they were in.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate and continuous latent sites.
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim. On any device; the parameters' is used.
        guide: q(z | x) to start from, which must have a density for any z; None starts from the prior.
        num_temperatures: T; 1 is importance sampling from q_0.
        num_chains: C; of a single one the standard errors are unknown.
        num_leapfrog: leapfrog steps of a transition.
        schedule: "sigmoid", with its smallest steps at both ends, or "linear".
        step_size: the step size that the pilot starts from.
        step_size_bounds: the smallest and the largest step size.
        burn_in: the pilot's transitions; 0 for none, and ``step_size`` throughout.
        plate: the batch plate's name, needed only where several would do.
        seed: of the chains; None draws it from the global generator.
        progress: show a bar; None shows it on a terminal only.
        out: a file that finished pieces are written to; a later call with equal arguments takes them from there. An
            interruption does not change the result, on the same machine and number of threads.
        max_rows: chains x data of one evaluation, at most; None for as many as fit in the cache. Another number gives
            another result.
        compile: how log-densities and slopes are computed: "off", "trace", "inductor" or "auto", as for
            :func:`pyro_vae.log_likelihood`; "auto" decides before the first piece. The levels differ in rounding, which
            chains amplify: with one seed, each level gives other numbers.

    Returns:
        :class:`AIS`; ``print`` it for one line.

    Raises:
        ValueError: a number is too small; there is no such schedule or level; x is empty or not finite; a latent site
            is discrete; or the guide has no density for a z that it did not draw (flows without an inverse, auxiliary
            variables).
        PairError: the model has no batch plate, or does not fit the guide.
        SupportError: x lies outside the likelihood's support.
        NonFiniteError: Pyro's validation finds a NaN among the first data; the message names the site. Any other NaN
            flags its datum.
        OutOfMemoryError: ``max_rows`` is too large.
        RunError: ``out`` is of other settings, other data or other parameters, or damaged.
        CheckpointError: ``out`` could not be written.

    References:
        R. Neal (2001), *Annealed importance sampling*, arXiv physics/9803008.
        Y. Wu, Y. Burda, R. Salakhutdinov, R. Grosse (2017), *On the quantitative analysis of decoder-based generative
        models*, arXiv 1611.04273.

    >>> import torch
    >>> from pyro_vae.models import LinearGaussian
    >>> result = ais(LinearGaussian(x_dim=4, latent_dim=2), torch.zeros(7, 4), num_temperatures=3, num_chains=5)
    >>> result.per_datum.shape, result.log_weights.shape
    (torch.Size([7]), torch.Size([5, 7]))
    """
    annealing = Annealing(num_temperatures, num_chains, num_leapfrog, schedule, step_size, step_size_bounds, burn_in)
    annealer = Annealer("ais", model, guide, x, annealing, plate, max_rows, compile)
    values, _ = annealer.run(seed, progress, out)
    return AIS.of_weights(values["log_weight"], **annealer.facts(values))
