"""Event shapes of data: checked once, with a message that says who asked."""

from collections.abc import Sequence

from torch import Tensor


def flatten_event(x: Tensor, x_shape: Sequence[int], who: str) -> Tensor:
    """Return x ``(*batch, *x_shape)`` as ``(*batch, prod(x_shape))``.

    Args:
        x: data of any leading batch shape but none: one datum alone would pass for a batch of its first dim.
        x_shape: the shape of one datum.
        who: the caller's name, for the message.

    Raises:
        ValueError: x has no batch dim, does not end in ``x_shape``, or is not floating point.

    >>> import torch
    >>> flatten_event(torch.zeros(5, 7, 1, 28, 28), (1, 28, 28), "here").shape
    torch.Size([5, 7, 784])
    """
    shape = tuple(x_shape)
    if x.ndim <= len(shape) or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise ValueError(
            f"{who}: x must have shape (batch, {', '.join(map(str, shape))}); got {tuple(x.shape)}. "
            f"Give the model, the guide and the data the same x_shape."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"{who}: x must be floating point; got {x.dtype}. If these are rows of data.train, "
            f"pass data.observe(rows), which scales and binarizes them."
        )
    return x.flatten(x.ndim - len(shape)) if len(shape) != 1 else x
