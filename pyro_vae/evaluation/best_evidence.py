"""Which of several estimates of log p(x) a gap is measured from: the highest that nothing speaks against."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.pareto import MIN_SAMPLES, khat_threshold
from pyro_vae.evaluation.wording import count

BEYOND = 3.0
"""Standard errors of a mean difference from which on two estimates disagree."""


@dataclass(frozen=True, eq=False)
class EvidenceCandidate:
    """An estimate of log p(x) of each datum, a lower bound in expectation."""

    name: str
    values: Tensor = field(repr=False)
    """In nats, ``(N,)``."""
    errors: Tensor = field(repr=False)
    """Monte Carlo standard errors, ``(N,)``."""
    doubtful: Tensor = field(repr=False)
    """Which are not dependable, ``(N,)``: proposals that did not converge, a k-hat that is too high or unknown."""

    @classmethod
    def given(cls, evidence: Any) -> "EvidenceCandidate":
        """Return an estimate of the caller's, doubtful where it flags itself, or by its k-hat where it has one."""
        values, errors = (t.detach().double().cpu() for t in (evidence.per_datum, evidence.standard_errors))
        flagged, khat = (getattr(evidence, name, None) for name in ("flagged", "pareto_k"))
        if isinstance(flagged, Tensor) and flagged.shape == values.shape:
            doubtful = flagged.detach().bool().cpu()
        elif isinstance(khat, Tensor) and khat.shape == values.shape:
            doubtful = over_the_limit(khat.detach().double().cpu(), getattr(evidence, "num_samples", 10**6))
        else:
            doubtful = torch.zeros_like(values, dtype=torch.bool)
        return cls(type(evidence).__name__, values, errors, doubtful)


@dataclass(frozen=True, eq=False)
class BestEvidence:
    """What :func:`best_evidence` returns."""

    values: Tensor
    """In nats, ``(N,)``."""
    errors: Tensor
    """Monte Carlo standard errors, ``(N,)``."""
    doubtful: Tensor
    """Which data have no dependable estimate, ``(N,)``."""
    source: str
    """Where the values come from."""
    disagreement: str
    """Which candidates differ from the values by more than their errors, and by how much; empty where none does."""


def over_the_limit(khat: Tensor, num_samples: int) -> Tensor:
    """Return which k-hats are above min(1 - 1 / log10 K, 0.7), or unknown though there are samples enough, ``(N,)``."""
    if num_samples < MIN_SAMPLES:
        return torch.zeros_like(khat, dtype=torch.bool)
    return (khat > khat_threshold(num_samples)) | khat.isnan()


def best_evidence(candidates: Sequence[EvidenceCandidate], comparable: Tensor, unit: str) -> BestEvidence:
    r"""Choose an estimate of log p(x) for each datum.

    Candidates are ranked by their mean less two standard errors, over the data on which none is doubtful if there are
    any: of bounds that are equal but for noise, the better known one comes first. A datum takes the first that is not
    doubtful for it, or, where all are, the first. No datum takes one for being high: the highest of several noisy
    numbers is too high.

    Args:
        candidates: at least one.
        comparable: data on which all candidates are finite, ``(N,)``.
        unit: what a datum is called.
    """
    sound = [one for one in candidates if not one.doubtful.all()]
    clear = comparable & ~torch.stack([one.doubtful for one in sound or candidates]).any(0)
    ground = clear if clear.any() else comparable
    ranked = sorted(candidates, key=lambda one: (one in sound, _dependable(one, ground)), reverse=True)
    doubts = torch.stack([one.doubtful for one in ranked])
    # The first of the smallest: not doubtful before doubtful.
    chosen = doubts.int().argmin(0)
    values, errors, doubtful = (
        torch.stack(parts).gather(0, chosen.unsqueeze(0)).squeeze(0)
        for parts in ([one.values for one in ranked], [one.errors for one in ranked], list(doubts))
    )
    others = [(one, int((chosen == rank).sum())) for rank, one in enumerate(ranked)]
    source = ranked[0].name
    if rest := [f"{one.name} for {count(number, unit)}" for one, number in others[1:] if number]:
        source += f" ({', '.join(rest)})"
    found = [_difference(one, values, errors, comparable, chosen != rank) for rank, one in enumerate(ranked)]
    disagreement = "; ".join(text for text in found if text)
    return BestEvidence(values, errors, doubtful, source, disagreement)


def _dependable(one: EvidenceCandidate, where: Tensor) -> float:
    """Return the mean less two standard errors."""
    values, errors = one.values[where], one.errors[where]
    return (values.mean() - 2 * errors.square().sum().sqrt() / len(values)).nan_to_num(-math.inf).item()


def _difference(
    one: EvidenceCandidate, values: Tensor, errors: Tensor, comparable: Tensor, elsewhere: Tensor
) -> str | None:
    """Say by how much a candidate differs from the values that were chosen, where that is more than errors explain.

    Where it is doubtful, only that it is above them: a loose bound is below, and its error too small.
    """
    for where, lowest in ((comparable & elsewhere & ~one.doubtful, -math.inf), (comparable & elsewhere, 0.0)):
        if not where.any():
            continue
        difference = (one.values - values)[where].mean().item()
        error = (torch.hypot(one.errors, errors)[where].square().sum().sqrt() / where.sum()).item()
        if difference > lowest and abs(difference) > BEYOND * error:
            side = "above" if difference > 0 else "below"
            share = f"{int(where.sum())} of {len(values)}"
            return f"{one.name} is {abs(difference):.2g} nats {side} (s.e. {error:.2g}; {share})"
    return None
