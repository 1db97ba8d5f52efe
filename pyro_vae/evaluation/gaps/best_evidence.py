"""Which of several estimates of log p(x) a gap is measured from: one for all data, dependable for most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES, khat_threshold
from pyro_vae.runtime.wording import count

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
    unusable: Tensor = field(repr=False)
    """Which are no estimate, ``(N,)``: not finite, of a proposal that did not converge, or flagged."""
    heavy: Tensor = field(repr=False)
    """Which have weights of too heavy a tail, by their k-hat, ``(N,)``: the error is not known."""

    @property
    def doubtful(self) -> Tensor:
        """Which are not dependable, for either reason, ``(N,)``."""
        return self.unusable | self.heavy

    @classmethod
    def of(cls, name: str, evidence: Any) -> "EvidenceCandidate":
        """Return an estimate with the flags and k-hats that it has.

        Args:
            name: what it is called.
            evidence: has ``per_datum`` and ``standard_errors``; its ``flagged``, ``pareto_k``, ``num_samples`` and
                ``khat_thresholds`` count where it has them.
        """
        values, errors = (t.detach().double().cpu() for t in (evidence.per_datum, evidence.standard_errors))
        flagged, khat = (getattr(evidence, attribute, None) for attribute in ("flagged", "pareto_k"))
        unusable, heavy = ~values.isfinite(), torch.zeros_like(values, dtype=torch.bool)
        if isinstance(khat, Tensor) and khat.shape == values.shape:
            num_samples = getattr(evidence, "num_samples", 10**6)
            limits = getattr(evidence, "khat_thresholds", khat_threshold(num_samples))
            khat = khat.detach().double().cpu()
            heavy = khat > torch.as_tensor(limits, dtype=torch.float64, device="cpu")
            # With fewer samples nothing has a k-hat.
            unusable = unusable | (khat.isnan() & (num_samples >= MIN_SAMPLES))
        if isinstance(flagged, Tensor) and flagged.shape == values.shape:
            # A flag may mean the k-hat, which is no reason to change single data: see best_evidence.
            unusable = unusable | (flagged.detach().bool().cpu() & ~heavy)
        return cls(name, values, errors, unusable, heavy)


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


def best_evidence(candidates: Sequence[EvidenceCandidate], comparable: Tensor, unit: str) -> BestEvidence:
    r"""Choose an estimate of log p(x) for all data.

    The leader is, of the candidates that are dependable for at least half of the data (of all candidates where none
    is), the one with the highest mean less two standard errors: of bounds that are equal but for noise, the better
    known one. In that mean a doubtful value counts for no more than the highest dependable value of the same datum. All
    data take the leader, except those for which it is unusable. These take the next candidate that is not doubtful for
    them, or else the next that is usable.

    No datum changes to another candidate because that is higher: the highest of several noisy numbers is too high. None
    changes because of a k-hat: a draw that hits a large weight raises the estimate and the k-hat together, so that
    estimates chosen for a low k-hat are too low.

    Args:
        candidates: at least one.
        comparable: data on which all candidates are finite, ``(N,)``.
        unit: what a datum is called.
    """
    ranked = _ranked(candidates, comparable)
    # Of each datum the first candidate with the least doubt: the leader wherever it is usable.
    doubt = torch.stack([candidate.unusable.int() + candidate.doubtful.int() for candidate in ranked])
    doubt[0] = torch.where(ranked[0].unusable, doubt[0], 0)
    chosen = doubt.argmin(0)

    def of_chosen(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).gather(0, chosen.unsqueeze(0)).squeeze(0)

    values = of_chosen([candidate.values for candidate in ranked])
    errors = of_chosen([candidate.errors for candidate in ranked])
    doubtful = of_chosen([candidate.doubtful for candidate in ranked])
    stand_ins, disagreements = [], []
    for rank, candidate in enumerate(ranked):
        number = int((chosen == rank).sum())
        if rank and number:
            stand_ins.append(f"{candidate.name} for {count(number, unit)}")
        if difference := _difference(candidate, values, errors, comparable & (chosen != rank)):
            disagreements.append(difference)
    source = ranked[0].name + (f" ({', '.join(stand_ins)})" if stand_ins else "")
    return BestEvidence(values, errors, doubtful, source, "; ".join(disagreements))


def _ranked(candidates: Sequence[EvidenceCandidate], comparable: Tensor) -> list[EvidenceCandidate]:
    """Return the candidates in the order in which they are preferred for all data."""
    usable = comparable & ~torch.stack([candidate.unusable for candidate in candidates]).any(0)
    compared = usable if usable.any() else comparable
    dependable = [candidate.values.where(~candidate.doubtful, -math.inf) for candidate in candidates]
    highest = torch.stack(dependable).max(0).values
    highest = highest.where(highest.isfinite(), math.inf)

    def rank(candidate: EvidenceCandidate) -> tuple[bool, float]:
        values = candidate.values.where(~candidate.doubtful, candidate.values.minimum(highest))[compared]
        error = candidate.errors[compared].square().sum().sqrt() / len(values)
        mostly_dependable = 2 * int(candidate.doubtful.sum()) <= len(candidate.doubtful)
        return mostly_dependable, (values.mean() - 2 * error).nan_to_num(-math.inf).item()

    return sorted(candidates, key=rank, reverse=True)


def _difference(candidate: EvidenceCandidate, values: Tensor, errors: Tensor, compared: Tensor) -> str | None:
    """Say by how much a candidate differs from the values that were chosen, where that is more than errors explain.

    Of data for which it is doubtful, only a difference upwards is told: a loose bound lies below, and its error is too
    small.
    """
    for where, lowest in ((compared & ~candidate.doubtful, -math.inf), (compared, 0.0)):
        if not where.any():
            continue
        difference = (candidate.values - values)[where].mean().item()
        error = (torch.hypot(candidate.errors, errors)[where].square().sum().sqrt() / where.sum()).item()
        if difference > lowest and abs(difference) > BEYOND * error:
            side = "above" if difference > 0 else "below"
            share = f"{int(where.sum())} of {len(values)}"
            return f"{candidate.name} is {abs(difference):.2g} nats {side} (s.e. {error:.2g}; {share})"
    return None
