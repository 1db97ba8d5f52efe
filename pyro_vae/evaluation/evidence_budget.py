"""Where the nats of a fitted pair go: all terms of log p(x) in one table, each with its errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.log_mean import LogMean
from pyro_vae.evaluation.evidence.pareto import (
    MIN_SAMPLES,
    khat_in_words,
    khat_threshold,
    pareto_k,
    share_above,
    tail_length,
)
from pyro_vae.evaluation.gaps.inference_gaps import InferenceGaps
from pyro_vae.evaluation.over_data.stream import Stream
from pyro_vae.evaluation.result import BoundResult
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, in_short
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count, rounded_error

KS = (1, 10, 100, 1000, 5000)
"""Samples a bound, as most papers report it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvidenceBudget(BoundResult):
    """What :func:`evidence_budget` returns; ``print`` it for the table."""

    terms: Mapping[str, Estimate] = field(repr=False)
    """By name, in the order of the table: ``reconstruction``, ``rate``, ``elbo``, ``iwae_K`` for each K, and of what
    was given ``ais``, ``approximation_gap`` and ``amortization_gap``. NaN for data that means leave out."""
    pareto_k: Tensor = field(repr=False)
    """Pareto k-hat of each datum's weights, ``(N,)``."""
    num_samples: int
    """All samples of a datum; IWAE-K averages over ``num_samples // K`` groups of K."""
    without_mass: Tensor = field(repr=False)
    """Which data have no weight above 0, ``(N,)``."""
    lost: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have weights that roundings may move by more than 0.1 nats, ``(N,)``."""

    def __getitem__(self, name: str) -> Estimate:
        """Return a row by its name."""
        return self.terms[name]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """All rows."""
        return dict(self.terms)

    @property
    def share_above_threshold(self) -> float | None:
        """Of the data that have a k-hat, the share above min(1 - 1 / log10 S, 0.7); None where none has."""
        return share_above(self.pareto_k, khat_threshold(self.num_samples))

    @property
    def unresolved(self) -> Tensor:
        """Which data have weights that are lost in rounding, or differ by no more than roundings may, ``(N,)``."""
        known = ~self.pareto_k.isnan() | (self.num_samples < MIN_SAMPLES)
        unknown = ~known & ~self.without_mass
        return unknown | self.lost if len(self.lost) else unknown

    def tensors(self) -> dict[str, Tensor]:
        """Return k-hat of each datum."""
        return {"pareto_k": self.pareto_k}

    def facts(self) -> dict[str, Any]:
        """Return how many samples there were, and what speaks against the numbers."""
        return {
            "num_samples": self.num_samples,
            "khat_threshold": khat_threshold(self.num_samples),
            "share_above_threshold": self.share_above_threshold,
            "num_unresolved": int(self.unresolved.sum()),
            "num_without_mass": int(self.without_mass.sum()),
            "bound": self.bound,
        }

    def __str__(self) -> str:
        titles = {name: _title(name) for name in self.terms}
        width = max(map(len, titles.values()))
        lines = [f"{'nats/' + self.datum:{width}s}      mean   MC s.e.  data s.e."]
        for name, term in self.terms.items():
            errors = (rounded_error(value) for value in (term.standard_error, term.data_standard_error))
            left_out = int(term.left_out.sum())
            note = f"  ({left_out} flagged and left out)" if left_out else ""
            numbers = f"{term.mean:8.2f}  " + "  ".join(f"{error:>8s}" for error in errors)
            lines.append(f"{titles[name]:{width}s}  {numbers}{note}")
        threshold = khat_threshold(self.num_samples)
        khat = khat_in_words(self.pareto_k, threshold, f"{threshold:.2f}", self.datum)
        lines.append(f"{khat}, {count(self.num_samples, 'sample')} each")
        if self.unresolved.any():
            lines.append(UNRESOLVED)
        if self.without_mass.any():
            words = count(len(self.pareto_k), self.datum)
            lines.append(f"{int(self.without_mass.sum())} of {words} have no weight above 0: log p^ is -inf")
        if not self.bound:
            lines.append(f"{self.caveat}: these are no log-likelihoods")
        return "\n".join(lines)


def _title(name: str) -> str:
    """Return what a row of the table is called."""
    if name in ("elbo", "ais") or name.startswith("iwae_"):
        return name.upper().replace("_", "-")
    return name.replace("_", " ")


def evidence_budget(
    model: Program,
    guide: Program,
    x: Any,
    *,
    ks: Sequence[int] = KS,
    gaps: InferenceGaps | None = None,
    ais: Estimate | None = None,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    compile: str = "auto",
) -> EvidenceBudget:
    r"""All terms of the evidence of a fitted pair, from one set of importance samples of each datum.

    .. math::
        \log p(x) = \underbrace{E_q[\log p(x | z)]}_{\text{reconstruction}}
        - \underbrace{\mathrm{KL}(q \| p(z))}_{\text{rate}} + \underbrace{\mathrm{KL}(q \| p(z | x))}_{\text{gap}}

    S = max(ks) samples are drawn of each datum. The bound of K samples, :math:`L_K = E \log \frac1K \sum_k w_k`, is
    estimated without bias as the mean over S // K groups of K, with the standard error of that mean; the last group
    of all S has the delta method's. L_1 is the ELBO.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: data, as for :func:`pyro_vae.log_likelihood`.
        ks: numbers of samples a bound.
        gaps: of the same data, by :func:`pyro_vae.inference_gaps`; its two gaps become rows.
        ais: of the same data, by :func:`pyro_vae.ais`; becomes a row.
        plate: as for :func:`pyro_vae.log_likelihood`.
        seed: likewise.
        progress: likewise.
        compile: likewise.

    Raises:
        ValueError: ``ks`` is empty or has a number below 1, or ``gaps`` or ``ais`` are of another number of data.
        As for :func:`pyro_vae.log_likelihood`.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, theorem 1, arXiv 1509.00519.
        C. Cremer, X. Li, D. Duvenaud (2018), *Inference suboptimality in variational autoencoders*, arXiv 1801.03558.
    """
    if not isinstance(ks, Sequence) or not ks or any(isinstance(k, int) and k < 1 for k in ks):
        raise ValueError(f"evidence_budget: ks must hold numbers of samples, each at least 1; got {in_short(ks)}.")
    for k in ks:
        check_count("evidence_budget", "each of ks", k)
    ks = sorted(set(ks))
    samples = ks[-1]
    stream = Stream("evidence_budget", model, guide, x, samples, plate, progress, compile)
    n = stream.size
    given: dict[str, Estimate] = {}
    if ais is not None:
        relied_on = ais.per_datum.isfinite() & ~ais.flagged
        given["ais"] = Estimate(ais.per_datum.where(relied_on, math.nan), ais.standard_errors, datum=stream.unit)
    if gaps is not None:
        given |= {name: gaps.estimates[name] for name in ("approximation_gap", "amortization_gap")}
    for name, term in given.items():
        if len(term.per_datum) != n:
            raise ValueError(
                f"evidence_budget: the {_title(name)} is of {count(len(term.per_datum), 'datum')}, and x has {n}; give "
                f"that of the same x."
            )
    means, errors = (torch.zeros(3 + len(ks), n, dtype=torch.float64) for _ in range(2))
    khat, lost = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.bool)
    rounding = stream.rounding
    with seeded(seed):
        for _, block in groupby(stream, key=lambda chunk: chunk.block):
            parts = []
            for chunk in block:
                where = chunk.data
                # A copy: the next chunk may lie in the same memory.
                parts.append(torch.stack([chunk.reconstruction, chunk.minus_rate], 1).double().cpu())
            reconstruction, minus_rate = torch.cat(parts).unbind(1)
            weights = reconstruction + minus_rate
            rows = [reconstruction, -minus_rate, weights, *(_groups(weights, k) for k in ks)]
            for row, values in enumerate(rows):
                means[row, where], errors[row, where] = values.mean(0), _error_of_mean(values)
            # A bound of all samples has one group.
            if samples > 1:
                errors[-1, where] = LogMean.of(weights).standard_error
            largest = weights.T.topk(min(tail_length(samples) + 1, samples), dim=1).values
            khat[where] = pareto_k(largest, samples, rounding.of(largest[:, 0], where))
            lost[where] = rounding.lost(largest[:, 0], where)
    names = ["reconstruction", "rate", "elbo", *(f"iwae_{k}" for k in ks)]
    # What is infinite or NaN is in no mean.
    there = means.where(means.isfinite(), math.nan)
    terms = {
        name: Estimate(values, value_errors, datum=stream.unit)
        for name, values, value_errors in zip(names, there, errors, strict=True)
    }
    return EvidenceBudget(
        terms=terms | given,
        pareto_k=khat,
        num_samples=samples,
        without_mass=means[-1] == -math.inf,
        lost=lost,
        caveat=stream.caveat,
        datum=stream.unit,
    )


def _groups(log_weights: Tensor, k: int) -> Tensor:
    """Return the log of the mean weight of each group of k samples, ``(samples // k, data)``."""
    whole = len(log_weights) // k
    groups = log_weights[: whole * k].reshape(whole, k, -1)
    return groups.logsumexp(1) - math.log(k)


def _error_of_mean(values: Tensor) -> Tensor:
    """Return the standard error of the mean over the first dim; NaN of one value."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))
