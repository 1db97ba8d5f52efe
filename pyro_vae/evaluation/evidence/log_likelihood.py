"""The importance-weighted log-likelihood, with what is needed to doubt it."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.adaptive import weigh_to_target
from pyro_vae.evaluation.evidence.importance_result import ImportanceResult
from pyro_vae.evaluation.evidence.weight_sums import WeightSums
from pyro_vae.evaluation.over_data.stream import Stream
from pyro_vae.evaluation.result import LogProbabilityResult
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import is_positive
from pyro_vae.runtime.random_state import seeded


@dataclass(frozen=True, eq=False, kw_only=True)
class LogLikelihood(ImportanceResult, LogProbabilityResult, Estimate):
    """What :func:`log_likelihood` returns: an estimate of log p(x), in nats, float64, on the CPU.

    ``per_datum`` is the log of the mean weight of each datum, a lower bound on log p(x) in expectation; its Monte Carlo
    ``standard_errors`` are of first order (delta method), and NaN for one sample. ``num_samples`` is K; under a target
    it is the budget, the most that a datum may take.
    """

    columns = MappingProxyType({"log_likelihood": "higher", "bits_per_dim": "", "khat_above": ""})

    ess: Tensor = field(repr=False)
    """Effective sample size (sum w)^2 / sum w^2 of each, ``(N,)``."""
    target_se: float | None = None
    """The Monte Carlo standard error that each datum was to have; None where K was fixed."""
    num_deciding: int = 0
    """Samples of each datum that chose its K under a target, and are not in its estimate."""
    chosen_samples: Tensor | None = field(default=None, repr=False)
    """K of each under a target, ``(N,)``, integers; else None."""

    @property
    def samples_per_datum(self) -> Tensor:
        """K of each: how many samples its estimate is made of, ``(N,)``, integers."""
        return super().samples_per_datum if self.chosen_samples is None else self.chosen_samples

    @property
    def reached(self) -> Tensor:
        """Which data have a standard error of at most :attr:`target_se`, ``(N,)``."""
        return self.standard_errors <= (math.inf if self.target_se is None else self.target_se)

    @property
    def bias(self) -> Tensor:
        """Expected log p^(x) - log p(x), about -Var / 2K = -standard_error^2 / 2, ``(N,)``; larger where flagged."""
        return -self.standard_errors.square() / 2

    @property
    def flagged(self) -> Tensor:
        """Which data have a k-hat above the threshold, or none, no weight above 0, or a weight that is NaN, ``(N,)``.

        With fewer than 26 samples no datum has a k-hat, and that alone flags none; roundings above 0.1 nats do.
        """
        return (self.pareto_k > self.khat_thresholds) | self.unresolved | self.without_mass | self.left_out

    def log_probability(self) -> Estimate:
        """Return the estimate itself."""
        return self

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The log-likelihood, where there are any its bits per dim, and the share of k-hats above their thresholds."""
        return {"log_likelihood": self} | super().estimates

    def tensors(self) -> dict[str, Tensor]:
        """Return k-hat and effective sample size of each datum."""
        return super().tensors() | {"ess": self.ess}

    def facts(self) -> dict[str, Any]:
        """Return how many samples there were, and what speaks against the numbers."""
        facts = super().facts() | {"num_dims": self.num_dims, "median_ess": self.ess.median().item()}
        if self.target_se is None:
            return facts
        samples = self.samples_per_datum.double()
        return facts | {
            "target_se": self.target_se,
            "share_reached": self.reached.double().mean().item(),
            "least_samples": int(samples.min()),
            "most_samples": int(samples.max()),
            "mean_samples": samples.mean().item(),
            "num_deciding": self.num_deciding,
            "bias": self.bias.mean().item(),
        }

    def __str__(self) -> str:
        khat = self.khat_in_words(f"{self.khat_threshold:.2f}" if self.target_se is None else "its threshold")
        kind = f"{self.evidence_in_words} >=" if self.bound else f"no log-likelihood ({self.caveat}):"
        text = (
            f"{kind} {self.mean:.2f} nats/{self.datum} ({self.errors_in_words}; {self._samples_in_words}; {khat}"
            f"{self.left_out_in_words})"
            f"{self.bits_in_words}"
        )
        cautions = self.cautions
        if self.khat_above.mean > 0.5:
            cautions.append(
                "most weights have too heavy a tail: the bound is loose and its Monte Carlo error understated. Use "
                "more samples or a better guide"
            )
        return "; ".join([text, *cautions])

    @property
    def _samples_in_words(self) -> str:
        if self.target_se is None:
            return f"K = {self.num_samples}"
        samples = self.samples_per_datum
        deciding = f" after {self.num_deciding} that chose it" if self.num_deciding else ""
        return (
            f"K = {samples.min()} to {samples.max()}, {samples.double().mean():.0f} on average{deciding}; target s.e. "
            f"{self.target_se:g} reached for {100 * self.reached.double().mean():.1f} %, bias about "
            f"{self.bias.mean():.2g}"
        )


def log_likelihood(
    model: Program,
    guide: Program,
    x: Any,
    num_samples: int = 5000,
    *,
    target_se: float | None = None,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    compile: str = "auto",
) -> LogLikelihood:
    r"""Importance-weighted log-likelihood of each datum.

    .. math::
        \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}, \qquad z_k \sim q(z | x)

    Its expectation is below log p(x) and rises with K. Weights are drawn and forgotten a few thousand at a
    time: memory grows neither with K nor with N. Modules run in evaluation mode and come back as they were.

    With ``target_se`` each datum has a K of its own, which
    :func:`pyro_vae.evaluation.evidence.adaptive.weigh_to_target` chooses from samples that do not enter its estimate:
    stopping does not add to the bias, about -Var / 2K = -s.e.^2 / 2.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim. On any device; the parameters' is used.
        num_samples: K; with ``target_se`` the budget, the most samples that are drawn for a datum.
        target_se: Monte Carlo standard error in nats that each datum's estimate is to stay below. A datum takes as many
            samples as its first few hundred call for, or all where their k-hat is too high to tell. It can still miss
            the target: :attr:`LogLikelihood.reached`. None gives each datum ``num_samples``.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of the samples; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.
        compile: how the weights are computed: "off" by Pyro; "trace" by a graph that is captured once, where there
            are calls enough to repay that; "inductor" by that graph in native code, which takes seconds to compile
            and a fifth or more off the rest; "auto" by the graph, and in native code where the first calls' pace
            says that this pays, so that the level can differ from run to run. A seed gives the same noise at every
            level, and numbers that differ by rounding only. What cannot be captured or compiled runs a level below,
            and says so.

    Returns:
        :class:`LogLikelihood`; ``print`` it for one line.

    Raises:
        ValueError: ``num_samples`` is below 1, there is no such level, x is empty or not finite, or ``target_se`` is
            not positive, or given where the batch plate draws a subsample of its own.
        PairError: model and guide do not fit each other, or have no batch plate.
        SupportError: x lies outside the likelihood's support.
        NonFiniteError: a weight is NaN or +inf; the message names the site.
        OutOfMemoryError: memory is too short for half of the rows a call that are tried first, too.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, equation 8,
        arXiv 1509.00519.
        A. Vehtari et al. (2024), *Pareto smoothed importance sampling*, arXiv 1507.02646.
    """
    if target_se is not None and not is_positive(target_se):
        raise ValueError(
            f"log_likelihood: target_se must be a positive number of nats, such as 0.05, or None; got {target_se}."
        )
    stream = Stream("log_likelihood", model, guide, x, num_samples, plate, progress, compile)
    if target_se is not None:
        stream.refuse_whole("samples are added to some data only. With target_se=None none are")
    if target_se is not None and stream.picks_rows:
        raise ValueError(
            f"log_likelihood: target_se must be None where the batch plate {stream.pair.plate.name!r} draws a "
            f"subsample of its own, here of {stream.pair.plate.size} of {stream.size} data: samples cannot be added to "
            "some data only. Give the plate no subsample_size, and cut x instead."
        )
    deciding = 0
    with seeded(seed):
        if target_se is None:
            sums = WeightSums(stream, stream.size, num_samples, stream.rounding)
        else:
            sums, deciding = weigh_to_target(stream, target_se, num_samples)
    return LogLikelihood(
        per_datum=sums.log_mean,
        standard_errors=sums.standard_errors,
        ess=sums.ess,
        pareto_k=sums.pareto_k,
        num_samples=num_samples,
        target_se=target_se,
        num_deciding=deciding,
        chosen_samples=None if target_se is None else sums.num_samples,
        without_mass=sums.log_mean == -math.inf,
        lost=sums.lost,
        num_dims=stream.pair.discrete_dims,
        caveat=stream.pair.caveat,
        given=stream.pair.given,
        datum=stream.unit,
    )
