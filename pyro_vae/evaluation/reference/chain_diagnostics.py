"""What several Markov chains tell about themselves, by ArviZ: R-hat and effective sample sizes."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.runtime.caches import a_cache


def r_hat(draws: Tensor) -> Tensor:
    """Return the rank-normalized split R-hat of each quantity; NaN where a draw is not finite, or nothing moved.

    Args:
        draws: ``(num_chains, num_samples, *rest)``, with two chains and four draws at least.

    Returns:
        Tensor ``rest``, float64.

    References:
        A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), *Rank-normalization, folding, and
        localization: an improved R-hat*, Bayesian Analysis 16, arXiv 1903.08008.
    """
    return _each("rhat", draws)


def ess(draws: Tensor, method: str = "mean") -> Tensor:
    """Return the effective sample size of each quantity; NaN where a draw is not finite.

    Args:
        draws: ``(num_chains, num_samples, *rest)``, with four draws at least.
        method: "mean" for the mean of the draws as they are, "bulk" and "tail" rank-normalized.

    Returns:
        Tensor ``rest``, float64. Above the number of draws where successive ones are anticorrelated.

    References:
        Vehtari et al. (2021), sections 3.2 and 4.3, arXiv 1903.08008.
    """
    # ArviZ 1.x has no default for the tails.
    return _each("ess", draws, method=method, prob=(0.05, 0.95) if method == "tail" else None)


def mean_and_variance(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over chains and draws ``(num_chains, num_samples, *rest)``, and that estimate's variance."""
    flat = draws.flatten(0, 1)
    return flat.mean(0), flat.var(0) / ess(draws)


def _each(name: str, draws: Tensor, **options: Any) -> Tensor:
    statistic = _arviz(name)
    columns = draws.double().cpu().flatten(2) if draws.ndim > 2 else draws.double().cpu().unsqueeze(-1)
    found = torch.full((columns.shape[2],), torch.nan, dtype=torch.float64)
    # Chains that never moved have variance 0, of which ratios are taken.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for index in range(columns.shape[2]):
            column = columns[:, :, index]
            if column.isfinite().all():
                found[index] = np.asarray(statistic(column.numpy(), **options)).item()
    return found.reshape(draws.shape[2:])


def _arviz(name: str) -> Callable[..., Any]:
    """Return a statistic of ArviZ 0.x, or of 1.x, where it has moved: of an array ``(num_chains, num_samples)``."""
    with warnings.catch_warnings(), a_cache():
        # ArviZ 0.x announces its successor on import.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    if hasattr(arviz, "psislw"):
        return getattr(arviz, name)
    from arviz_stats.base import array_stats

    return getattr(array_stats, name)
