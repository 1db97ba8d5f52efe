"""The oracle of the k-hats: ArviZ's PSIS on all weights."""

import warnings

import numpy as np
import torch

from pyro_vae.evaluation.evidence.pareto import tail_length


def khat_of_all(log_weights):
    """K-hat ``(batch,)`` of log-weights ``(batch, K)``, from the ``tail_length(K)`` largest of them."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from arviz import psislw
        except ImportError:
            return torch.from_numpy(_newer_khat(log_weights))
        return torch.from_numpy(np.array(psislw(log_weights.double().numpy())[1], ndmin=1))


def _newer_khat(log_weights):
    """By ArviZ 1.x, which rounds its tail down unless it is asked for a slightly longer one."""
    from arviz_stats.base import array_stats

    n = log_weights.shape[1]
    tail = tail_length(n)
    efficiency = 9 * n / (tail + 0.5) ** 2
    assert (np.floor(3 * (n / efficiency) ** 0.5) if n * efficiency > 225 else n // 5) == tail
    return np.array(array_stats.psislw(-log_weights.double().numpy(), r_eff=efficiency)[1], ndmin=1)
