"""The inference gap of each datum, split into what the family costs and what the encoder costs."""

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES, largest, pareto_k
from pyro_vae.evaluation.gaps.best_evidence import EvidenceCandidate, best_evidence, over_the_limit, without_khat
from pyro_vae.evaluation.gaps.guide_family import family_of, is_larger
from pyro_vae.evaluation.gaps.local_maps import FAMILIES
from pyro_vae.evaluation.gaps.local_posterior import Fitted, LocalPosteriors
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.evaluation.result import BoundResult
from pyro_vae.programs.precision import UNRESOLVED, Rounding
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_number
from pyro_vae.runtime.memory import keep_freed_memory
from pyro_vae.runtime.progress import progress_bar
from pyro_vae.runtime.wording import count, rounded_error

WHO = "inference_gaps"

LARGER = " (family larger than the guide's own)"


@dataclass(frozen=True, eq=False, kw_only=True)
class InferenceGaps(BoundResult):
    """What :func:`inference_gaps` returns; everything in nats, float64, on the CPU.

    Of a datum that is :attr:`flagged` all estimates are NaN, and means leave it out.
    """

    columns = MappingProxyType({"approximation_gap": "lower", "amortization_gap": "lower", "inference_gap": "lower"})

    inference_gap: Estimate
    """log p^(x) - L[q]: the sum of the two gaps below."""
    approximation_gap: Estimate
    """log p^(x) - L[q*]: what the family costs."""
    amortization_gap: Estimate
    """L[q*] - L[q]: what it costs that an encoder has to find the member. Its errors are paired."""
    elbo: Estimate
    """L[q]."""
    best_elbo: Estimate
    """L[q*], with the best member of the family for each datum."""
    log_likelihood: Estimate
    """log p^(x): itself a lower bound on log p(x) in expectation, so that gaps are too small, if anything."""
    converged: Tensor = field(repr=False)
    """Which data's q* was found by the rule, and not cut off at ``max_steps``, ``(N,)``."""
    steps: Tensor = field(repr=False)
    """Steps that each datum's q* took, ``(N,)``."""
    family: str
    """Of the q*: "diagonal", "full_rank" or "flow"."""
    evidence_source: str
    """Where log p^ comes from: of the estimates that are dependable for at least half of the data the highest; and in
    brackets what stands in where there is no estimate of that kind."""
    num_samples: int
    """Samples of each ELBO."""
    larger_family: bool = False
    """Whether q* ranges over more than the guide's own family, or that family is not known: what the guide's family
    costs may then be counted as amortization gap."""
    doubtful: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """For which data log p^ is not dependable, ``(N,)``: a k-hat above its limit, or a q* that has not converged."""
    disagreement: str = ""
    """Which estimates of log p(x) differ from log p^ by more than their errors, and by how much; empty where none."""
    num_unresolved: int = 0
    """Data whose weights are lost in rounding, or differ by no more than roundings may have them differ."""

    @property
    def flagged(self) -> Tensor:
        """Which data have a quantity that is not finite, ``(N,)``."""
        return self.elbo.left_out

    def facts(self) -> dict[str, Any]:
        """Return how q* and log p^ were found, and what speaks against the numbers."""
        return {
            "family": self.family,
            "larger_family": self.larger_family,
            "evidence_source": self.evidence_source,
            "num_samples": self.num_samples,
            "num_not_converged": self._num_not_converged,
            "num_doubtful": self._num_doubtful,
            "num_unresolved": self.num_unresolved,
            "disagreement": self.disagreement,
            "bound": self.bound,
        }

    def __str__(self) -> str:
        total, family, encoder = (
            f"{gap.mean:.2f} (s.e. {rounded_error(gap.standard_error)}, data s.e. "
            f"{rounded_error(gap.data_standard_error)})"
            for gap in (self.inference_gap, self.approximation_gap, self.amortization_gap)
        )
        kind = "" if self.bound else f"no log-likelihood ({self.caveat}): "
        text = (
            f"{kind}inference gap {total} = approximation {family} + amortization {encoder} nats/{self.datum}; "
            f"ELBO {self.elbo.mean:.2f}, log p^ {self.log_likelihood.mean:.2f} by {self.evidence_source}; "
            f"q* {self.family}{LARGER if self.larger_family else ''}, not converged for {self._num_not_converged} of "
            f"{count(self.elbo.num_data, self.datum)}"
        )
        if self.flagged.any():
            text += f"; {int(self.flagged.sum())} not finite and left out of every mean"
        if self._num_doubtful:
            text += f"; log p^ is not dependable for {self._num_doubtful}, by its k-hat, flag or convergence"
        if self.disagreement:
            text += f"; estimates of log p(x) disagree: {self.disagreement}"
        return f"{text}; {UNRESOLVED}" if self.num_unresolved else text

    @property
    def _num_doubtful(self) -> int:
        return int((self.doubtful & ~self.flagged).sum()) if len(self.doubtful) else 0

    @property
    def _num_not_converged(self) -> int:
        return int((~self.converged & ~self.flagged).sum())


def inference_gaps(
    model: Program,
    guide: Program,
    x: Any,
    *,
    family: str = "own",
    num_samples: int = 1000,
    evidence: Estimate | None = None,
    evidence_samples: int = 5000,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    step_samples: int = 32,
    learning_rate: float = 0.02,
    check_every: int = 50,
    patience: int = 5,
    max_steps: int = 5000,
) -> InferenceGaps:
    r"""Split the inference gap of each datum into approximation gap and amortization gap.

    .. math::
        \underbrace{\log p(x) - \mathcal{L}[q]}_{\text{inference gap}} =
        \underbrace{\log p(x) - \mathcal{L}[q^*]}_{\text{approximation gap}} +
        \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_{\text{amortization gap}}

    q* is the best member of a family for that datum alone, under the model as it is. It is q(z | x) pushed through an
    invertible map that starts at the identity and is fitted to the datum; how, and by what rule it stops, is said at
    :class:`pyro_vae.evaluation.gaps.local_posterior.LocalPosteriors`. No look is taken at how the guide is made: it may
    be a flow without an inverse, or draw auxiliary variables (whose slack in the bound then counts as approximation
    gap).

    All ELBOs are estimated with noise that fitting never saw, and those of q and q* with the same. log p(x) is replaced
    by one of three estimates: the IWAE bounds with q and with q* as proposals, and ``evidence``. Of those that are
    dependable for at least half of the data (a q* that has not converged, a k-hat above its limit and a flag of
    ``evidence`` speak against it), the one with the highest mean, less two Monte Carlo standard errors, is taken for
    all data. For a datum whose q* has not converged, or that ``evidence`` flags, another of the three stands in. Where
    they differ by more than their errors explain, the result says so. All are lower bounds in expectation: where the
    true posterior is far from q and q*, the approximation gap is larger than what is found. And q* is as good as its
    optimizer: what that leaves (on Gaussian posteriors and full-rank maps 0.002 nats in 3 dimensions, 0.02 in 20) is
    taken from the amortization gap and given to the approximation gap. No standard error knows of it.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate of the length of x.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim. On any device; the parameters' is used.
        family: of the maps. "diagonal" shifts and stretches each coordinate: with a mean-field Gaussian guide, q* is
            the best diagonal Gaussian. "full_rank" is any affine map: with a Gaussian guide, q* is the best Gaussian.
            "flow" puts coupling layers before that map. "own" is the guide's family as its trace shows it: the first
            where all latent sites are independent location-scale laws in unconstrained coordinates (normal,
            log-normal, Laplace, Student-t), the second for a multivariate normal; a guide or a distribution may name
            it in an attribute ``family``. Else it is "flow". Where that is more than the guide's own family (on top
            of a flow, or of a Gaussian of low rank), the result says so: what the family costs then counts as
            amortization gap.
        num_samples: samples of each ELBO.
        evidence: another estimate of log p(x) on the same data, as of annealed importance sampling; its ``flagged``
            and, where it has one, its ``pareto_k`` are heeded.
        evidence_samples: K of both IWAE bounds; 0 leaves them out, where ``evidence`` is given.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of all noise; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.
        step_samples: samples of a datum in a step of the optimizer.
        learning_rate: Adam's at the start, in standard deviations of q.
        check_every: steps between two looks at a datum's ELBO.
        patience: looks without progress after which a datum has converged.
        max_steps: steps after which a datum is given up as not converged.

    Returns:
        :class:`InferenceGaps`; ``print`` it for one line.

    Raises:
        ValueError: an option is out of its range, there is no such family, ``evidence`` is not of these data, a latent
            site is discrete, or x is empty or not finite.
        PairError: model and guide do not fit each other, or have no batch plate.
        SupportError: x lies outside the likelihood's support.

    References:
        C. Cremer, X. Li, D. Duvenaud (2018), *Inference suboptimality in variational autoencoders*, arXiv 1801.03558.
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, arXiv 1509.00519.

    >>> from pyro_vae.guides import MeanFieldGuide
    >>> from pyro_vae.models import LinearGaussian
    >>> pair = LinearGaussian(4, 2), MeanFieldGuide((4,), 2)
    >>> gaps = inference_gaps(*pair, torch.randn(7, 4), num_samples=10, evidence_samples=10, max_steps=50)
    >>> gaps.family, gaps.approximation_gap.per_datum.shape
    ('diagonal', torch.Size([7]))
    """
    if family not in ("own", *FAMILIES):
        raise ValueError(f"{WHO}: family must be one of own, {', '.join(FAMILIES)}; got {family!r}.")
    check_number(WHO, "learning_rate", learning_rate)
    if not learning_rate > 0:
        raise ValueError(f"{WHO}: learning_rate must be positive; got {learning_rate}.")
    _at_least(1, step_samples=step_samples, patience=patience, max_steps=max_steps)
    _at_least(2, num_samples=num_samples, check_every=check_every)
    check_count(WHO, "evidence_samples", evidence_samples, least=0)
    if evidence_samples < 2 and (evidence_samples != 0 or evidence is None):
        raise ValueError(
            f"{WHO}: evidence_samples must be at least 2, or 0 where `evidence` is given; got {evidence_samples}."
        )
    pair = FrozenPair(WHO, model, guide, x, plate)
    _check_evidence(evidence, pair.size)
    own = family_of(guide, *pair.two_runs())
    chosen = family if family != "own" else "flow" if own is None else own.name
    keep_freed_memory()
    with pair.at_rest(seed):
        local_map = FAMILIES[chosen](pair.joint.dim)
        posteriors = LocalPosteriors(
            pair, local_map, num_samples=num_samples + evidence_samples, step_samples=step_samples,
            learning_rate=learning_rate, check_every=check_every, patience=patience, max_steps=max_steps,
        )  # fmt: skip
        found = _Found(posteriors, pair.size, num_samples, evidence_samples, pair.rounding)
        with progress_bar(pair.size, " data", WHO, shown=progress) as bar:
            for fitted in posteriors:
                found.add(fitted)
                bar.update(len(fitted.index))
            found.finish()
    gaps = found.result(chosen, evidence, pair.joint.caveat, pair.unit)
    return replace(gaps, larger_family=is_larger(chosen, own))


class _Found:
    """Collects data whose q* is found, and measures them a block at a time."""

    def __init__(
        self, posteriors: LocalPosteriors, size: int, num_samples: int, evidence_samples: int, rounding: Rounding
    ) -> None:
        self._posteriors, self._num_samples, self._evidence_samples = posteriors, num_samples, evidence_samples
        self._waiting: list[Fitted] = []
        self._elbos = torch.full((6, size), math.nan, dtype=torch.float64)
        self._evidence = torch.full((4, size), math.nan, dtype=torch.float64)
        self._khat = torch.full((2, size), math.nan, dtype=torch.float64)
        self._rounding = rounding
        self._converged = torch.zeros(size, dtype=torch.bool)
        self._steps = torch.zeros(size, dtype=torch.long)

    def add(self, fitted: Fitted) -> None:
        """Take some more."""
        self._converged[fitted.index] = fitted.converged
        self._steps[fitted.index] = fitted.steps
        self._waiting.append(fitted)
        width = self._posteriors.width
        while sum(len(f.index) for f in self._waiting) >= width:
            waiting = Fitted.together(self._waiting)
            self._measure(waiting.rows(torch.arange(width)), width)
            self._waiting = [waiting.rows(torch.arange(width, len(waiting.index)))]

    def finish(self) -> None:
        """Measure what is left, filled up to a block with repeated data."""
        waiting = Fitted.together(self._waiting)
        count = len(waiting.index)
        if count:
            self._measure(waiting.rows(torch.arange(self._posteriors.width) % count), count)

    def _measure(self, fitted: Fitted, count: int) -> None:
        index, size = fitted.index[:count], self._posteriors.step_samples
        moments = _Moments(self._num_samples)
        for q, best in self._posteriors.weights(fitted, math.ceil(self._num_samples / size)):
            moments.add(torch.stack([q, best, best - q]))
        self._elbos[:, index] = moments.result()[:, :count]
        if self._evidence_samples:
            evidence, tails = LogMean(), torch.empty(0)
            for pair in self._posteriors.weights(fitted, math.ceil(self._evidence_samples / size)):
                # As many of the last ones as are still asked for, of q and q*.
                weights = torch.stack(pair, 1)[: self._evidence_samples - evidence.count]
                tails = largest(tails, weights, self._evidence_samples)
                evidence.add(weights)
            self._evidence[:, index] = torch.cat([evidence.value, evidence.standard_error])[:, :count]
            rounding = self._rounding.of(tails[..., 0].flatten(), fitted.index.repeat(2))
            khat = pareto_k(tails.flatten(0, 1), self._evidence_samples, rounding)
            self._khat[:, index] = khat.unflatten(0, tails.shape[:2])[:, :count]

    def result(self, family: str, given: Estimate | None, caveat: str | None, unit: str) -> InferenceGaps:
        """Choose the evidence, and say which data are not finite."""
        elbo, best, _, elbo_error, best_error, paired_error = self._elbos
        candidates, samples = [], self._evidence_samples
        if samples:
            for row, proposal in enumerate(("q", "q*")):
                values, value_errors, khat = self._evidence[row], self._evidence[row + 2], self._khat[row]
                unusable = ~values.isfinite() | without_khat(khat, samples)
                if proposal == "q*":
                    unusable = unusable | ~self._converged
                name, heavy = f"IWAE-{samples} with {proposal}", over_the_limit(khat, samples)
                candidates.append(EvidenceCandidate(name, values, value_errors, unusable, heavy))
        if given is not None:
            candidates.append(EvidenceCandidate.given(given))
        fair = elbo.isfinite() & best.isfinite()
        common = fair & torch.stack([one.values.isfinite() for one in candidates]).all(0)
        evidence = best_evidence(candidates, common, unit)
        log_evidence, evidence_error = evidence.values, evidence.errors
        unresolved = self._rounding.lost(torch.maximum(elbo.abs(), best.abs()), slice(None))
        if samples >= MIN_SAMPLES:
            unresolved = unresolved | self._khat.isnan().any(0)
        unresolved = unresolved & fair
        fair = fair & log_evidence.isfinite()

        def quantity(values: Tensor, errors: Tensor) -> Estimate:
            return Estimate(values.where(fair, math.nan), errors.where(fair, math.nan), datum=unit)

        return InferenceGaps(
            inference_gap=quantity(log_evidence - elbo, torch.hypot(evidence_error, elbo_error)),
            approximation_gap=quantity(log_evidence - best, torch.hypot(evidence_error, best_error)),
            amortization_gap=quantity(best - elbo, paired_error),
            elbo=quantity(elbo, elbo_error),
            best_elbo=quantity(best, best_error),
            log_likelihood=quantity(log_evidence, evidence_error),
            converged=self._converged & fair,
            steps=self._steps,
            family=family,
            evidence_source=evidence.source,
            num_samples=self._num_samples,
            doubtful=evidence.doubtful,
            disagreement=evidence.disagreement,
            num_unresolved=int(unresolved.sum()),
            caveat=caveat,
            datum=unit,
        )


class _Moments:
    """Mean and standard error of values that come ``(what, some samples, data)`` at a time."""

    def __init__(self, num_samples: int) -> None:
        self._left = self._count = num_samples
        self._origin: Tensor | None = None

    def add(self, values: Tensor) -> None:
        values = values[:, : self._left].double().cpu()
        self._left -= values.shape[1]
        if self._origin is None:
            # Sums of squares about a value near the mean: log-weights are far from 0, and may spread little.
            self._origin = values[:, :1]
            self._first = self._second = torch.zeros_like(values[:, 0])
        about = values - self._origin
        self._first = self._first + about.sum(1)
        self._second = self._second + about.square().sum(1)

    def result(self) -> Tensor:
        """Return ``(2 * what, data)``, means first."""
        assert self._origin is not None
        mean = self._first / self._count
        variance = (self._second / self._count - mean.square()).clamp(min=0) / (self._count - 1)
        return torch.cat([self._origin[:, 0] + mean, variance.sqrt()])


def _at_least(lowest: int, **options: int) -> None:
    for name, value in options.items():
        check_count(WHO, name, value, lowest)


def _check_evidence(evidence: Estimate | None, size: int) -> None:
    if evidence is None:
        return
    parts = (getattr(evidence, name, None) for name in ("per_datum", "standard_errors"))
    shapes = [tuple(values.shape) if isinstance(values, Tensor) else None for values in parts]
    if shapes != [(size,), (size,)]:
        raise ValueError(
            f"{WHO}: evidence must have tensors `per_datum` and `standard_errors` of shape ({size},), one for each "
            f"datum of x; got {shapes[0]} and {shapes[1]} from {type(evidence).__name__}."
        )
