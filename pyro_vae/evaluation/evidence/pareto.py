"""The Pareto k-hat of importance weights, from their tail alone."""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from pyro_vae.programs.precision import MOST_ROUNDING
from pyro_vae.runtime.caches import a_cache

CLEARLY = 5
"""Roundings that a tail must be wide. The largest of hundreds of roundings is four to six of their standard deviations;
a tail of nothing but roundings is two or three of these wide."""

BOUNDED = 0.01
"""Nats within which weights count as equal, where no more can be seen of them."""

MIN_SAMPLES = 26
"""Below this a tail of a fifth of the samples has fewer than six: its first quartile, from which the fit starts, is
then its smallest."""


def tail_length(num_samples: int) -> int:
    """Return how many of the largest weights the Pareto tail is fitted to: min(K / 5, 3 sqrt K), rounded up.

    References:
        A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024), *Pareto smoothed importance sampling*,
        JMLR 25, section 2.4, arXiv 1507.02646.

    >>> tail_length(5000)
    213
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def khat_threshold(num_samples: int) -> float:
    """Return the k-hat above which K samples do not give a dependable estimate: min(1 - 1 / log10 K, 0.7).

    References:
        Vehtari et al. (2024), section 3.2.4, arXiv 1507.02646.

    >>> khat_threshold(5000), round(khat_threshold(100), 2)
    (0.7, 0.5)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else 0.0


def pareto_k(tail_weights: Tensor, num_samples: int, rounding: Tensor | None = None) -> Tensor:
    """Return the Pareto k-hat of each datum's weights, by ArviZ's PSIS.

    Only the tail enters the fit, so only the tail is kept: PSIS is shown five tail lengths of weights, of which
    the largest are real and the rest equal the cutoff, with a relative efficiency that makes it take the same
    tail as from all ``num_samples``.

    Args:
        tail_weights: the ``tail_length(num_samples) + 1`` largest log-weights of each datum, ``(*batch, tail + 1)``.
        num_samples: K, how many weights there were.
        rounding: nats by which roundings may move a log-weight of each datum, ``(*batch,)``, as
            :meth:`pyro_vae.programs.precision.Rounding.of` has it; None takes some of the weights' own dtype.

    Returns:
        Tensor ``(*batch,)``, float64. NaN where K < 26, too few for a tail; where all weights are 0; and where
        roundings are above 0.1 nats, or hide a tail that may be wider than 0.01 nats. -inf where the tail is as good as
        constant, as when the guide is the posterior: a bounded weight has k < 0, a constant one is the limit.
    """
    batch, tail = tail_weights.shape[:-1], tail_weights.shape[-1] - 1
    khat = torch.full(batch, math.nan, dtype=torch.float64)
    if num_samples < MIN_SAMPLES:
        return khat
    ordered = tail_weights.sort(dim=-1).values.to(torch.float64).cpu()
    weights = ordered[..., :1].expand(*batch, 5 * tail).clone()
    weights[..., -tail:] = ordered[..., 1:]
    # PSIS takes min(n / 5, 3 sqrt(n / efficiency)) of n weights; at n = 5 tail the first is the tail.
    efficiency = 9 / tail
    if rounding is None:
        # Sums of hundreds of terms carry some tens of them.
        rounding = 20 * torch.finfo(tail_weights.dtype).eps * ordered[..., -1].abs().clamp(min=1)
    unseen = CLEARLY * rounding.double().cpu()
    spread = ordered[..., -1] - ordered[..., 1] > unseen
    khat[~spread & (unseen <= BOUNDED)] = -math.inf
    khat[ordered[..., -1] == -math.inf] = math.nan
    seen = spread & (unseen <= CLEARLY * MOST_ROUNDING)
    if seen.any():
        khat[seen] = torch.from_numpy(_psislw(weights[seen].numpy(), efficiency))
    return khat


def _psislw(log_weights: np.ndarray, efficiency: float) -> np.ndarray:
    """Return k-hat by PSIS of ArviZ 0.x, or of 1.x, where it has moved."""
    # The fit's grid runs into infinities that it weighs with 0.
    with np.errstate(all="ignore"), warnings.catch_warnings(), a_cache():
        # ArviZ 0.x announces its successor on import; the share above the threshold is in our result.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        try:
            from arviz import psislw
        except ImportError:
            from arviz_stats.base import array_stats

            # This one takes log-likelihoods, of which the weights are the inverses.
            return np.array(array_stats.psislw(-log_weights, r_eff=efficiency)[1], ndmin=1)
        return np.array(psislw(log_weights, reff=efficiency)[1], ndmin=1)
