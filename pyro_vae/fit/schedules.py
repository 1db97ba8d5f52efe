"""Schedules over epochs: the IWAE paper's learning rate, and KL warm-up."""

from bisect import bisect_right
from itertools import accumulate

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pyro_vae.runtime.checks import check_count

IWAE_STAGES = 8
"""Stage i = 0..7 lasts 3^i epochs at 10^(-i/7) of the learning rate: 3280 epochs in all."""


def iwae_schedule(optimizer: Optimizer, epochs: int = 3280) -> LambdaLR:
    """Learning rate lr * 10^(-i/7) for 3^i epochs, i = 0..7, stretched or shrunk to ``epochs``.

    Args:
        optimizer: a torch optimizer; the paper's starts at lr = 1e-3.
        epochs: how long the run is; 3280 is the paper's own.

    References:
        Y. Burda, R. Grosse, R. Salakhutdinov (2015), *Importance weighted autoencoders*, section 5,
        arXiv 1509.00519.

    >>> import torch
    >>> adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-3)
    >>> schedule = iwae_schedule(adam)
    >>> [float(f"{1e-3 * schedule.lr_lambdas[0](epoch):.3g}") for epoch in (0, 1, 4, 3279)]
    [0.001, 0.00072, 0.000518, 0.0001]
    """
    check_count("iwae_schedule", "epochs", epochs)
    lengths = [3**stage for stage in range(IWAE_STAGES)]
    ends = [end * epochs / sum(lengths) for end in accumulate(lengths)]

    def factor(epoch: int) -> float:
        return 10 ** (-min(bisect_right(ends, epoch), IWAE_STAGES - 1) / (IWAE_STAGES - 1))

    return LambdaLR(optimizer, factor)


SCHEDULES = {"iwae": iwae_schedule}
"""Schedules that :func:`pyro_vae.fit` knows by name, each called with the optimizer and the epochs."""


def kl_weight_at(epoch: int, warmup: int) -> float:
    """Linear warm-up of the KL weight over ``warmup`` epochs; 1 from there on, and never 0.

    >>> [kl_weight_at(epoch, 4) for epoch in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (epoch + 1) / warmup) if warmup else 1.0
