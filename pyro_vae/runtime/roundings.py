"""Compare results up to rounding errors."""

import torch
from torch import Tensor


def agree(expected: Tensor, result: Tensor, roundings: float, eps: float = 0.0) -> bool:
    """Whether two results are equal up to some roundings of the largest element.

    Args:
        expected: a tensor.
        result: the tensor to compare; one of another shape or dtype does not agree.
        roundings: how many of them the results may differ by.
        eps: relative size of a rounding; at least that of the results' dtype is taken.
    """
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return False
    if not expected.is_floating_point():
        return bool((expected == result).all())
    tolerance = min(roundings * max(eps, torch.finfo(expected.dtype).eps), 0.01)
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(result, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
