"""Samples for each datum by its own need: until its Monte Carlo error is below a target, or the budget ends."""

import math

import torch
from torch import Tensor

from pyro_vae.evaluation.evidence.pareto import khat_threshold
from pyro_vae.evaluation.evidence.weight_sums import WeightSums
from pyro_vae.evaluation.over_data.stream import Stream

STEP = 64
"""Samples are added in multiples of this, so that one graph serves all data whatever they need."""

LEAST = 128
"""Fewest samples to decide on, and to estimate from. Of 128 the k-hat is fitted to a tail of 26, and known to within
(1 + k) / sqrt(26), a third: fewer could not tell a heavy tail from none."""

SHARE = 1 / 8
"""Of the budget, the share that decides: more for a larger budget, since there it has more to lose."""

MARGIN = 1.5
"""Times the samples that the first ones call for: both variances are estimates, each off by a tenth or two."""


def weigh_to_target(stream: Stream, target_se: float, budget: int) -> tuple[WeightSums, int]:
    r"""Draw for each datum as many samples as bring its Monte Carlo error below the target.

    Stopping as soon as the estimated error is small selects data that have not met their large weights yet: their
    estimates are low and so are their errors, by several times the bias -Var / 2K of a fixed K. So there are two
    rounds. The first samples only say how many more a datum needs,

    .. math:: K_i = 1.5 \, n \, (\mathrm{se}_i / \mathrm{target})^2,

    or all that are left where their k-hat is above the threshold and their error not dependable. Then K_i fresh
    samples alone make the estimate: given K_i it is the plain estimate from K_i samples, with its bias and its bound.

    Args:
        stream: the pair and the data.
        target_se: in nats, of each datum.
        budget: the most samples that a datum may take, those that decide among them.

    Returns:
        The sums of each datum's K_i weights, and how many samples decided (0 where the budget is too small for two
        rounds, and K_i is the budget).

    References:
        C. Stein (1945), *A two-sample test for a linear hypothesis whose power is independent of the variance*,
        Annals of Mathematical Statistics 16: a first sample chooses the size of the second. His estimate uses both.
    """
    first = deciding_samples(budget)
    if not first:
        return WeightSums(stream, stream.size, budget, stream.rounding), 0
    rest = (budget - first) // STEP * STEP
    looking = stream.draw(torch.full((stream.size,), first), STEP, later=rest // 2)
    looks = WeightSums(looking, stream.size, first, stream.rounding)
    needed = samples_needed(looks.standard_errors, looks.pareto_k, first, target_se, rest)
    return WeightSums(stream.draw(needed, STEP), stream.size, rest, stream.rounding), first


def deciding_samples(budget: int) -> int:
    """Return how many samples decide, of a budget that leaves enough to estimate from; 0 where there is none.

    >>> deciding_samples(5000), deciding_samples(1000), deciding_samples(250)
    (640, 128, 0)
    """
    first = max(LEAST, math.ceil(budget * SHARE / STEP) * STEP)
    return first if budget >= first + LEAST else 0


def samples_needed(standard_errors: Tensor, pareto_k: Tensor, num_samples: int, target_se: float, most: int) -> Tensor:
    """Return how many fresh samples bring each datum's standard error below the target, ``(N,)``, integers.

    Args:
        standard_errors: of an estimate from ``num_samples``, ``(N,)``.
        pareto_k: its k-hat; where it is above the threshold, or unknown, the datum needs ``most``.
        num_samples: how many samples those were.
        target_se: in nats.
        most: a multiple of 64, as all results.

    >>> errors, khat = torch.tensor([0.01, 0.1, 0.1, 0.4]), torch.tensor([0.2, 0.2, 0.9, 0.2])
    >>> samples_needed(errors, khat, num_samples=320, target_se=0.1, most=4672)
    tensor([ 128,  512, 4672, 4672])
    """
    needed = MARGIN * num_samples * (standard_errors.double() / target_se).square()
    needed = torch.where(pareto_k <= khat_threshold(num_samples), needed, math.inf).nan_to_num(nan=math.inf)
    return ((needed / STEP).ceil() * STEP).clamp(LEAST, most).long()
