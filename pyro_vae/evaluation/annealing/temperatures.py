"""The inverse temperatures of the densities between the first and the last."""

import torch
from torch import Tensor

SIGMOID_WIDTH = 4.0
"""How far the schedule reaches into the tails of the logistic function, as in Wu et al."""

SCHEDULES = ("linear", "sigmoid")


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
