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
    def given(cls, evidence: Any) -> "EvidenceCandidate":
        """Return an estimate of the caller's, with the flags and k-hats that it has."""
        values, errors = (t.detach().double().cpu() for t in (evidence.per_datum, evidence.standard_errors))
        flagged, khat = (getattr(evidence, name, None) for name in ("flagged", "pareto_k"))
        unusable, heavy = ~values.isfinite(), torch.zeros_like(values, dtype=torch.bool)
        if isinstance(khat, Tensor) and khat.shape == values.shape:
            num_samples = getattr(evidence, "num_samples", 10**6)
            limits = getattr(evidence, "khat_thresholds", None)
            heavy = over_the_limit(khat, num_samples) if limits is None else (khat > limits).cpu()
            unusable = unusable | without_khat(khat, num_samples)
        if isinstance(flagged, Tensor) and flagged.shape == values.shape:
            # A flag may mean the k-hat, which is no reason to change single data: see best_evidence.
            unusable = unusable | (flagged.detach().bool().cpu() & ~heavy)
        return cls(type(evidence).__name__, values, errors, unusable, heavy)


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
    """Return which k-hats are above min(1 - 1 / log10 K, 0.7), ``(N,)``."""
    if num_samples < MIN_SAMPLES:
        return torch.zeros_like(khat, dtype=torch.bool, device="cpu")
    return khat.detach().double().cpu() > khat_threshold(num_samples)


def without_khat(khat: Tensor, num_samples: int) -> Tensor:
    """Return which have no k-hat though there are samples enough for one, ``(N,)``."""
    return khat.detach().isnan().cpu() & (num_samples >= MIN_SAMPLES)


def best_evidence(candidates: Sequence[EvidenceCandidate], comparable: Tensor, unit: str) -> BestEvidence:
    r"""Choose an estimate of log p(x) for all data.

    Of the candidates that are dependable for at least half of the data, or of all where none is, the one with the
    highest mean less two standard errors leads: of bounds that are equal but for noise, the better known one. In that
    mean a doubtful value counts for no more than the highest dependable one of the same datum. All data take the
    leader, but those for which it is unusable: these take the next that is not doubtful for them, or else the next that
    is usable.

    No datum takes another estimate for its value, since the highest of several noisy numbers is too high; and none for
    its k-hat. A draw that hits a large weight raises the estimate and the k-hat together, so that estimates kept for
    their low k-hat are too low.

    Args:
        candidates: at least one.
        comparable: data on which all candidates are finite, ``(N,)``.
        unit: what a datum is called.
    """
    ranked = _ranked(candidates, comparable)
    # The first of the smallest, datum by datum: the leader where it is usable, then by doubt.
    doubt = torch.stack([one.unusable.int() + one.doubtful.int() for one in ranked])
    doubt[0] = torch.where(ranked[0].unusable, doubt[0], 0)
    chosen = doubt.argmin(0)
    values, errors, doubtful = (
        torch.stack(parts).gather(0, chosen.unsqueeze(0)).squeeze(0)
        for parts in ([one.values for one in ranked], [one.errors for one in ranked], [one.doubtful for one in ranked])
    )
    others = [(one, int((chosen == rank).sum())) for rank, one in enumerate(ranked)]
    source = ranked[0].name
    if rest := [f"{one.name} for {count(number, unit)}" for one, number in others[1:] if number]:
        source += f" ({', '.join(rest)})"
    found = [_difference(one, values, errors, comparable, chosen != rank) for rank, one in enumerate(ranked)]
    disagreement = "; ".join(text for text in found if text)
    return BestEvidence(values, errors, doubtful, source, disagreement)


def _ranked(candidates: Sequence[EvidenceCandidate], comparable: Tensor) -> list[EvidenceCandidate]:
    """Return the candidates, the one that all data take first."""
    usable = comparable & ~torch.stack([one.unusable for one in candidates]).any(0)
    ground = usable if usable.any() else comparable
    confirmed = torch.stack([one.values.where(~one.doubtful, -math.inf) for one in candidates]).max(0).values
    confirmed = confirmed.where(confirmed.isfinite(), math.inf)

    def rank(one: EvidenceCandidate) -> tuple[bool, float]:
        values = one.values.where(~one.doubtful, one.values.minimum(confirmed))[ground]
        error = one.errors[ground].square().sum().sqrt() / len(values)
        sound = 2 * int(one.doubtful.sum()) <= len(one.doubtful)
        return sound, (values.mean() - 2 * error).nan_to_num(-math.inf).item()

    return sorted(candidates, key=rank, reverse=True)


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
