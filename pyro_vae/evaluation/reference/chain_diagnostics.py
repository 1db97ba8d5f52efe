"""Diagnostics of Markov chains by ArviZ: R-hat and effective sample sizes."""

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.arviz_groups import import_arviz


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
        Tensor ``rest``, float64; above the number of draws where successive draws are anticorrelated.

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
    """Return a statistic by ArviZ of each quantity; NaN where a draw is not finite."""
    library = import_arviz()
    if not hasattr(library, "psislw"):
        # In ArviZ 1.x the statistics of arrays are here.
        library = importlib.import_module("arviz_stats.base").array_stats
    statistic = getattr(library, name)
    columns = draws.double().cpu().flatten(2) if draws.ndim > 2 else draws.double().cpu().unsqueeze(-1)
    values = torch.full((columns.shape[2],), torch.nan, dtype=torch.float64)
    # The variance of a chain that never moved is 0, and ratios are taken of it.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for index, column in enumerate(columns.unbind(2)):
            if column.isfinite().all():
                values[index] = np.asarray(statistic(column.numpy(), **options)).item()
    return values.reshape(draws.shape[2:])
