"""The ELBO and the two terms it is made of."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.moments import Moments
from pyro_vae.evaluation.over_data.stream import Stream
from pyro_vae.evaluation.result import LogProbabilityResult
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count


@dataclass(frozen=True, eq=False, kw_only=True)
class ElboTerms(LogProbabilityResult):
    """What :func:`elbo_terms` returns; everything in nats, float64, on the CPU."""

    columns = MappingProxyType({"elbo": "higher", "reconstruction": "", "rate": ""})
    bits_name = "elbo_bits_per_dim"

    elbo: Estimate
    """Reconstruction minus rate."""
    reconstruction: Estimate
    """E_q[log p(x | z)]."""
    rate: Estimate
    """KL(q(z | x) || p(z))."""
    num_samples: int
    """Samples of each datum."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have log-weights that roundings may move by more than 0.1 nats, ``(N,)``: their terms are off by as
    much, and no standard error says so."""

    def log_probability(self) -> Estimate:
        """Return the ELBO."""
        return self.elbo

    def facts(self) -> dict[str, Any]:
        """Return how many samples and elements there were, and what speaks against the numbers."""
        return {
            "num_samples": self.num_samples,
            "num_dims": self.num_dims,
            "num_unresolved": int(self.unresolved.sum()),
            "bound": self.bound,
        }

    def __str__(self) -> str:
        text = (
            f"ELBO {self.elbo.mean:.2f} = reconstruction {self.reconstruction.mean:.2f} - rate {self.rate.mean:.2f} "
            f"nats/{self.datum} ({self.elbo.errors_in_words}; {count(self.elbo.num_data, self.datum)}"
            f"{self.elbo.left_out_in_words})"
        )
        text += self.bits_in_words
        if self.unresolved.any():
            text += f"; {UNRESOLVED}"
        return text if self.bound else f"{text}; no bound: {self.caveat}"


def elbo_terms(
    model: Program,
    guide: Program,
    x: Any,
    num_samples: int = 10,
    *,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
    compile: str = "auto",
) -> ElboTerms:
    r"""ELBO of each datum and its terms, by sampling.

    .. math:: \mathcal{L}(x) = E_q[\log p(x | z)] - \mathrm{KL}(q(z | x) \| p(z)) \le \log p(x)

    Args, errors: as for :func:`pyro_vae.log_likelihood`.

    References:
        D. Kingma, M. Welling (2014), *Auto-encoding variational Bayes*, equations 2 and 3, arXiv 1312.6114.
    """
    stream = Stream("elbo_terms", model, guide, x, num_samples, plate, progress, compile)
    mean, variance = torch.zeros(2, 3, stream.size, dtype=torch.float64)
    rounding, magnitude = stream.rounding, torch.zeros(stream.size, dtype=torch.float64)
    with seeded(seed):
        for _, block in groupby(stream, key=lambda chunk: chunk.block):
            moments = Moments()
            for chunk in block:
                data, reconstruction, minus_rate = chunk.data, chunk.reconstruction.double(), chunk.minus_rate.double()
                log_weight = reconstruction + minus_rate
                moments.add(torch.stack([log_weight, reconstruction, minus_rate]))
                magnitude[data] = torch.maximum(magnitude[data], log_weight.abs().amax(0).cpu())
            mean[:, data], variance[:, data] = moments.mean, moments.variance
    unbiased = variance * num_samples / max(num_samples - 1, 1)
    standard_errors = (unbiased / num_samples).sqrt() if num_samples > 1 else torch.full_like(variance, math.nan)
    values = torch.stack([mean[1] + mean[2], mean[1], -mean[2]])
    # A datum with a term that is no number is left out of all three means, so that they add up.
    values = values.where(~values.isnan().any(0), math.nan)
    estimates = [
        Estimate(value, error, datum=stream.unit) for value, error in zip(values, standard_errors, strict=True)
    ]
    return ElboTerms(
        elbo=estimates[0],
        reconstruction=estimates[1],
        rate=estimates[2],
        num_samples=num_samples,
        unresolved=rounding.lost(magnitude, slice(None)),
        num_dims=stream.pair.discrete_dims,
        caveat=stream.pair.caveat,
        datum=stream.unit,
    )
