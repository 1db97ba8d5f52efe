"""What another test set would change."""

import math

from torch import Tensor


def standard_error_of_mean(values: Tensor) -> float:
    """Return the standard error of the mean of independent values ``(N,)``; NaN for fewer than two.

    >>> import torch
    >>> standard_error_of_mean(torch.tensor([1.0, 3.0])), standard_error_of_mean(torch.tensor([1.0]))
    (1.0, nan)
    """
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan
