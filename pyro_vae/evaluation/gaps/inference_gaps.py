"""The inference gap of each datum, split into what the family costs and what the encoder costs."""

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.moments import Moments
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES
from pyro_vae.evaluation.evidence.weight_sums import WeightMean
from pyro_vae.evaluation.gaps.best_evidence import EvidenceCandidate, best_evidence
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
    """Which estimate log p^ is, of those that are dependable for at least half of the data the highest; in brackets,
    which ones stand in for data where it is unusable."""
    num_samples: int
    """Samples of each ELBO."""
    larger_family: bool = False
    """Whether q* ranges over more than the guide's own family, or that family is not known: a part of what the guide's
    family costs may then count as amortization gap."""
    doubtful: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """For which data log p^ is not dependable, ``(N,)``: a k-hat above its limit, or a q* that has not converged."""
    disagreement: str = ""
    """Which estimates of log p(x) differ from log p^ by more than their errors, and by how much; empty where none."""
    num_unresolved: int = 0
    """How many data have weights that are lost in rounding, or differ by no more than roundings may."""

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
    invertible map that starts at the identity and is fitted to the datum, as
    :class:`pyro_vae.evaluation.gaps.local_posterior.LocalPosteriors` describes. The guide may be any program: a flow
    without an inverse, or one with auxiliary variables (whose slack in the bound then counts as approximation gap).

    All ELBOs are estimated with noise that fitting never saw, those of q and q* with the same noise. log p(x) is
    replaced by one of three estimates: the IWAE bounds with q and with q* as proposals, and ``evidence``. One of them
    is dependable for a datum unless its q* has not converged, its k-hat is above the limit, or ``evidence`` flags it.
    Of those that are dependable for at least half of the data, the one with the highest mean, less two Monte Carlo
    standard errors, is taken for all data. For a datum whose q* has not converged, or that ``evidence`` flags, another
    of the three stands in. Where they differ by more than their errors explain, the result says so.

    All three are lower bounds in expectation: where the true posterior is far from q and q*, the approximation gap is
    larger than the estimate. What the optimizer of q* does not reach (on Gaussian posteriors and full-rank maps 0.002
    nats in 3 dimensions, 0.02 in 20) is missing in the amortization gap and counted in the approximation gap; no
    standard error includes it.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate of the length of x.
        guide: q(z | x).
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along
            their first dim. On any device; the parameters' is used.
        family: of the maps. "diagonal" shifts and stretches each coordinate: with a mean-field Gaussian guide, q* is
            the best diagonal Gaussian. "full_rank" is any affine map: with a Gaussian guide, q* is the best Gaussian.
            "flow" puts coupling layers before that map. "own" is the guide's family as its trace shows it: "diagonal"
            where all latent sites are independent location-scale laws in unconstrained coordinates (normal,
            log-normal, Laplace, Student-t), "full_rank" for a multivariate normal, else "flow"; a guide or a
            distribution may name it in an attribute ``family``. Where the maps reach more than the guide's own family
            (on top of a flow, or of a Gaussian of low rank), the result says so: what the family costs then counts as
            amortization gap.
        num_samples: samples of each ELBO.
        evidence: another estimate of log p(x) on the same data, as of annealed importance sampling; its ``flagged``
            and its ``pareto_k`` count where it has them.
        evidence_samples: K of both IWAE bounds; 0 leaves them out, where ``evidence`` is given.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of all noise; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.
        step_samples: samples of a datum in a step of the optimizer.
        learning_rate: Adam's at the start, in standard deviations of q.
        check_every: steps between two checks of a datum's ELBO.
        patience: checks without progress in a row after which a datum has converged.
        max_steps: steps after which a datum counts as not converged.

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
    for name, value, least in (
        ("step_samples", step_samples, 1), ("patience", patience, 1), ("max_steps", max_steps, 1),
        ("num_samples", num_samples, 2), ("check_every", check_every, 2),
    ):  # fmt: skip
        check_count(WHO, name, value, least)
    check_count(WHO, "evidence_samples", evidence_samples, least=0)
    if evidence_samples < 2 and (evidence_samples != 0 or evidence is None):
        raise ValueError(
            f"{WHO}: evidence_samples must be at least 2, or 0 where `evidence` is given; got {evidence_samples}."
        )
    pair = FrozenPair(WHO, model, guide, x, plate)
    if evidence is not None:
        _check_evidence(evidence, pair.size)
    guide_family = family_of(guide, *pair.two_runs())
    if family == "own":
        family = "flow" if guide_family is None else guide_family.name
    keep_freed_memory()
    with pair.at_rest(seed), progress_bar(pair.size, " data", WHO, shown=progress) as bar:
        posteriors = LocalPosteriors(
            pair, FAMILIES[family](pair.joint.dim), num_samples=num_samples + evidence_samples,
            step_samples=step_samples, learning_rate=learning_rate, check_every=check_every, patience=patience,
            max_steps=max_steps,
        )  # fmt: skip
        parts = [
            _measure(posteriors, fitted, size, num_samples, evidence_samples, pair.rounding)
            for fitted, size in posteriors.blocks(bar)
        ]
    index = torch.cat([part.pop("index") for part in parts]).argsort()
    measured = {name: torch.cat([part[name] for part in parts], -1)[..., index] for name in parts[0]}
    elbo, best_elbo, _ = measured["elbos"]
    elbo_error, best_error, paired_error = measured["elbo_errors"]
    converged = measured["converged"]
    candidates = []
    for row, proposal in enumerate(("q", "q*") if evidence_samples else ()):
        name = f"IWAE-{evidence_samples} with {proposal}"
        bound = SimpleNamespace(
            per_datum=measured["bounds"][row],
            standard_errors=measured["bound_errors"][row],
            pareto_k=measured["khat"][row],
            num_samples=evidence_samples,
        )
        candidate = EvidenceCandidate.of(name, bound)
        candidates.append(candidate if row == 0 else replace(candidate, unusable=candidate.unusable | ~converged))
    if evidence is not None:
        name = "the given evidence" if type(evidence) is Estimate else type(evidence).__name__
        candidates.append(EvidenceCandidate.of(name, evidence))
    finite = elbo.isfinite() & best_elbo.isfinite()
    comparable = finite & torch.stack([candidate.values.isfinite() for candidate in candidates]).all(0)
    best = best_evidence(candidates, comparable, pair.unit)
    unresolved = pair.rounding.lost(torch.maximum(elbo.abs(), best_elbo.abs()), slice(None))
    if evidence_samples >= MIN_SAMPLES:
        unresolved = unresolved | measured["khat"].isnan().any(0)
    measurable = finite & best.values.isfinite()

    def quantity(values: Tensor, errors: Tensor) -> Estimate:
        return Estimate(values.where(measurable, math.nan), errors.where(measurable, math.nan), datum=pair.unit)

    return InferenceGaps(
        inference_gap=quantity(best.values - elbo, torch.hypot(best.errors, elbo_error)),
        approximation_gap=quantity(best.values - best_elbo, torch.hypot(best.errors, best_error)),
        amortization_gap=quantity(best_elbo - elbo, paired_error),
        elbo=quantity(elbo, elbo_error),
        best_elbo=quantity(best_elbo, best_error),
        log_likelihood=quantity(best.values, best.errors),
        converged=converged & measurable,
        steps=measured["steps"],
        family=family,
        larger_family=is_larger(family, guide_family),
        evidence_source=best.source,
        num_samples=num_samples,
        doubtful=best.doubtful,
        disagreement=best.disagreement,
        num_unresolved=int((unresolved & finite).sum()),
        caveat=pair.joint.pair.caveat,
        datum=pair.unit,
    )


def _measure(
    posteriors: LocalPosteriors, fitted: Fitted, size: int, num_samples: int, evidence_samples: int, rounding: Rounding
) -> dict[str, Tensor]:
    """Return the numbers of a block of data by name, each ``(..., size)``, from noise that fitting never saw.

    Args:
        posteriors: draws the log-weights.
        fitted: a block, of which the first ``size`` data are measured.
        size: how many.
        num_samples: samples of each ELBO.
        evidence_samples: K of both IWAE bounds; 0 for none.
        rounding: how large the roundings in log-weights are.
    """
    moments = Moments()
    for q, best in posteriors.weights(fitted, num_samples):
        moments.add(torch.stack([q, best, best - q]))
    numbers = {
        "index": fitted.index,
        "converged": fitted.converged,
        "steps": fitted.steps,
        "elbos": moments.mean,
        "elbo_errors": (moments.variance / (num_samples - 1)).sqrt(),
    }
    if evidence_samples:
        mean = WeightMean(evidence_samples)
        for q, best in posteriors.weights(fitted, evidence_samples):
            mean.add(torch.stack([q, best], 1))
        khat, _ = mean.khat(rounding, fitted.index)
        numbers |= {"bounds": mean.value, "bound_errors": mean.standard_error, "khat": khat}
    return {name: values[..., :size] for name, values in numbers.items()}


def _check_evidence(evidence: Any, size: int) -> None:
    parts = (getattr(evidence, name, None) for name in ("per_datum", "standard_errors"))
    shapes = [tuple(values.shape) if isinstance(values, Tensor) else None for values in parts]
    if shapes != [(size,), (size,)]:
        raise ValueError(
            f"{WHO}: evidence must have tensors `per_datum` and `standard_errors` of shape ({size},), one for each "
            f"datum of x; got {shapes[0]} and {shapes[1]} from {type(evidence).__name__}."
        )
