"""The temperatures at which one density is turned into another."""

import torch
from torch import Tensor

from pyro_vae.runtime.checks import check_count

SIGMOID_WIDTH = 4.0
"""How far into the logistic function's tails the schedule reaches; Wu et al.'s."""

SCHEDULES = ("linear", "sigmoid")


def check_schedule(who: str, schedule: str, num_temperatures: int) -> None:
    """Refuse schedules there are none of, and fewer than one temperature.

    Raises:
        ValueError: says which schedules there are.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"{who}: schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}.")
    check_count(who, "num_temperatures", num_temperatures, why=", which is plain importance sampling")


def temperatures(schedule: str, num_temperatures: int) -> Tensor:
    r"""Return the inverse temperatures 0 = b_0 < ... < b_T = 1, ``(num_temperatures + 1,)``, float64.

    .. math:: b_t = t / T \quad \text{or} \quad b_t = \frac{s_t - s_0}{s_T - s_0}, \; s_t = \sigma(4 (2 t / T - 1))

    The sigmoid schedule takes its smallest steps at both ends, where the densities change most.

    Args:
        schedule: "linear" or "sigmoid".
        num_temperatures: T.

    References:
        Y. Wu, Y. Burda, R. Salakhutdinov, R. Grosse (2017), *On the quantitative analysis of decoder-based generative
        models*, arXiv 1611.04273.

    >>> temperatures("linear", 4).tolist(), temperatures("sigmoid", 1).tolist()
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 1.0])
    """
    steps = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return steps
    curve = torch.sigmoid(SIGMOID_WIDTH * (2 * steps - 1))
    return (curve - curve[0]) / (curve[-1] - curve[0])
