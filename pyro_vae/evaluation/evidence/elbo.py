"""The ELBO and the two terms it is made of."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.bits_per_dim import BitsPerDim
from pyro_vae.evaluation.data_error import standard_error_of_mean
from pyro_vae.evaluation.over_data.stream import Stream
from pyro_vae.programs.pair import SOFT_TARGETS
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count


@dataclass(frozen=True, eq=False)
class ElboTerms:
    """What :func:`elbo_terms` returns; everything in nats, float64, on the CPU."""

    reconstruction: Tensor = field(repr=False)
    """E_q[log p(x | z)] of each datum, ``(N,)``."""
    rate: Tensor = field(repr=False)
    """KL(q(z | x) || p(z)) of each datum, ``(N,)``."""
    sample_variance: Tensor = field(repr=False)
    """Variance of one sample's log-weight, ``(N,)``; NaN for one sample."""
    reconstruction_variance: Tensor = field(repr=False)
    """Variance of one sample's log p(x | z), ``(N,)``; NaN for one sample."""
    rate_variance: Tensor = field(repr=False)
    """Variance of one sample's log q(z | x) - log p(z), ``(N,)``; NaN for one sample."""
    num_samples: int
    bound: bool = True
    """False where the numbers are no lower bound on a log-likelihood: see :attr:`caveat`."""
    unit: str = "datum"
    num_dims: int | None = None
    """Elements of a datum, where x is discrete with more than two values; else None."""
    caveat: str = SOFT_TARGETS
    """Why there is no bound, where there is none."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have log-weights that roundings may move by more than 0.1 nats, ``(N,)``: their terms are off by as
    much, and no standard error says so."""

    @property
    def elbo(self) -> Tensor:
        """Reconstruction minus rate, ``(N,)``."""
        return self.reconstruction - self.rate

    @property
    def mean(self) -> float:
        """Mean ELBO over the data."""
        return self.elbo.mean().item()

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of the mean: what another seed would change."""
        return self._error_from(self.sample_variance)

    @property
    def reconstruction_standard_error(self) -> float:
        """Monte Carlo standard error of the mean reconstruction."""
        return self._error_from(self.reconstruction_variance)

    @property
    def rate_standard_error(self) -> float:
        """Monte Carlo standard error of the mean rate."""
        return self._error_from(self.rate_variance)

    def _error_from(self, variance: Tensor) -> float:
        return (variance.div(self.num_samples).sum().sqrt() / len(variance)).item()

    @property
    def data_standard_error(self) -> float:
        """Standard error of the mean over data: what another test set would change."""
        return standard_error_of_mean(self.elbo)

    @property
    def bits_per_dim(self) -> BitsPerDim | None:
        """Minus the mean in bits for each element, where x is discrete with more than two values; else None."""
        return BitsPerDim.of_nats(self.mean, self.standard_error, self.data_standard_error, self.num_dims)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of ``str(self)``, for a file."""
        return {
            "elbo_nats": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "reconstruction_nats": self.reconstruction.mean().item(),
            "reconstruction_standard_error": self.reconstruction_standard_error,
            "rate_nats": self.rate.mean().item(),
            "rate_standard_error": self.rate_standard_error,
            "num_samples": self.num_samples,
            "num_data": len(self.rate),
            "num_unresolved": int(self.unresolved.sum()),
            "bound": self.bound,
            **(self.bits_per_dim.summary() if self.bits_per_dim else {}),
        }

    def __str__(self) -> str:
        text = (
            f"ELBO {self.mean:.2f} = reconstruction {self.reconstruction.mean():.2f} - rate {self.rate.mean():.2f} "
            f"nats/{self.unit} (Monte Carlo s.e. {self.standard_error:.2g}, data s.e. "
            f"{self.data_standard_error:.2g}; {count(len(self.rate), self.unit)})"
        )
        if self.bits_per_dim:
            text += f"; {self.bits_per_dim}"
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
    # Sums about a first value: log-weights may be far from 0, and spread little.
    origin, sums, squares = torch.zeros(3, 3, stream.size, dtype=torch.float64)
    block, rounding, magnitude = -1, stream.rounding, torch.zeros(stream.size, dtype=torch.float64)
    with seeded(seed):
        for chunk in stream:
            reconstruction, minus_rate = chunk.reconstruction.double().cpu(), chunk.minus_rate.double().cpu()
            terms = torch.stack([reconstruction + minus_rate, reconstruction, minus_rate])
            if chunk.block != block:
                block = chunk.block
                origin[:, chunk.data] = terms[:, 0].nan_to_num(0.0, 0.0, 0.0)
            magnitude[chunk.data] = torch.maximum(magnitude[chunk.data], terms[0].abs().amax(0))
            about = terms - origin[:, chunk.data].unsqueeze(1)
            sums[:, chunk.data] += about.sum(1)
            squares[:, chunk.data] += about.square().sum(1)
    mean = sums / num_samples
    spread = (squares / num_samples - mean.square()).clamp(min=0) * num_samples / max(num_samples - 1, 1)
    mean = origin + mean
    variances = spread if num_samples > 1 else torch.full_like(spread, math.nan)
    pair = stream.pair
    return ElboTerms(
        mean[1], -mean[2], variances[0], variances[1], variances[2], num_samples, pair.normalized, stream.unit,
        pair.discrete_dims, stream.caveat, rounding.lost(magnitude, slice(None)),
    )  # fmt: skip
