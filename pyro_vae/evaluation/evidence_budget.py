"""Where the nats of a fitted pair go: all terms of log p(x) in one table, each with its errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.importance_result import ImportanceResult
from pyro_vae.evaluation.evidence.weight_sums import WeightMean
from pyro_vae.evaluation.gaps.inference_gaps import InferenceGaps
from pyro_vae.evaluation.over_data.stream import Stream
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, in_short
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count, rounded_error

KS = (1, 10, 100, 1000, 5000)
"""Samples a bound, as most papers report it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EvidenceBudget(ImportanceResult):
    """What :func:`evidence_budget` returns; ``print`` it for the table.

    IWAE-K averages over ``num_samples // K`` groups of K samples.
    """

    terms: Mapping[str, Estimate] = field(repr=False)
    """By name, in the order of the table: ``reconstruction``, ``rate``, ``elbo``, ``iwae_K`` for each K; where the
    caller has them, ``ais``, ``approximation_gap`` and ``amortization_gap``. NaN for data that means leave out."""

    def __getitem__(self, name: str) -> Estimate:
        """Return a row by its name."""
        return self.terms[name]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """All rows, and the share of k-hats above their threshold."""
        return dict(self.terms) | super().estimates

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
        lines.append(f"{self.khat_in_words(f'{self.khat_threshold:.2f}')}, {count(self.num_samples, 'sample')} each")
        lines += self.cautions
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
    extra: dict[str, Estimate] = {}
    if ais is not None:
        reliable = ais.per_datum.isfinite() & ~ais.flagged
        extra["ais"] = Estimate(ais.per_datum.where(reliable, math.nan), ais.standard_errors, datum=stream.unit)
    if gaps is not None:
        extra |= {name: gaps.estimates[name] for name in ("approximation_gap", "amortization_gap")}
    for name, term in extra.items():
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
            mean = WeightMean(samples).add(weights)
            errors[-1, where] = mean.standard_error
            khat[where], lost[where] = mean.khat(rounding, where)
    names = ["reconstruction", "rate", "elbo", *(f"iwae_{k}" for k in ks)]
    terms = {
        # What is infinite or NaN is in no mean.
        name: Estimate(values.where(values.isfinite(), math.nan), value_errors, datum=stream.unit)
        for name, values, value_errors in zip(names, means, errors, strict=True)
    }
    return EvidenceBudget(
        terms=terms | extra,
        pareto_k=khat,
        num_samples=samples,
        without_mass=means[-1] == -math.inf,
        lost=lost,
        caveat=stream.pair.caveat,
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
