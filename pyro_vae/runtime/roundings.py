"""Whether results are equal but for roundings."""

import torch
from torch import Tensor


def agree(expected: Tensor, found: Tensor, roundings: float, eps: float = 0.0) -> bool:
    """Whether two results are equal up to some roundings of the largest element.

    Args:
        expected: a tensor.
        found: one of its shape and dtype, or they do not agree.
        roundings: how many.
        eps: how large a rounding is, relatively; never less than the results' dtype has it.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not expected.is_floating_point():
        return bool((expected == found).all())
    tolerance = min(roundings * max(eps, torch.finfo(expected.dtype).eps), 0.01)
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
