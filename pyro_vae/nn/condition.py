"""What a conditional model and its guide are given beside x: y, encoded as features for a network."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_count, in_short


class Condition:
    r"""y of a datum (x, y), as features: labels in one-hot coding, numbers as they are, flat.

    Args:
        who: the owner's name, for messages.
        num_classes: C, where y are class labels, integers from 0 to C - 1; None where y are floating point numbers.
        y_shape: shape of one y; for labels, ``()`` unless given.

    Attributes:
        dim: number of features of one y: ``prod(y_shape)``, times C for labels.

    Raises:
        ValueError: neither is given, or a size is no whole number from 1.

    >>> Condition("here", num_classes=3).encode(torch.tensor([0, 2]), torch.zeros(2, 784))
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    >>> Condition("here", y_shape=(1, 28, 28)).dim
    784
    """

    def __init__(self, who: str, num_classes: int | None = None, y_shape: Sequence[int] | None = None) -> None:
        if num_classes is None and y_shape is None:
            raise ValueError(
                f"{who}: needs num_classes where y is a class label, or y_shape where y is a tensor of numbers: "
                f"num_classes=10, or y_shape=(3,). From data of (x, y) they are read off: "
                f"{argument('labels', True, of_run=True)} gives images with labels."
            )
        if num_classes is not None:
            check_count(who, "num_classes", num_classes)
        for size in y_shape or ():
            check_count(who, "y_shape", size)
        self.who = who
        self.num_classes = num_classes
        self.y_shape = tuple(y_shape or ())
        self.dim = math.prod(self.y_shape) * (num_classes or 1)

    def encode(self, y: Any, x: Tensor) -> Tensor:
        """Return the features of y, ``(*batch, dim)``, in the dtype of x.

        Under a trace no value can be read: the features of a label that is no class are NaN there.

        Args:
            y: labels or numbers, ``(*batch, *y_shape)``.
            x: any rows of the same data, ``(*batch, features)``.

        Raises:
            ValueError: y is missing, has another shape or number of data than x, or another dtype; or a label is none
                of the classes.
        """
        self._check(y, tuple(x.shape[:-1]))
        batch = x.shape[:-1]
        if self.num_classes is None:
            return y.reshape(*batch, self.dim).to(x.dtype)
        classes = torch.arange(self.num_classes, device=y.device)
        codes = (y.unsqueeze(-1) == classes).to(x.dtype)
        outside = ((y < 0) | (y >= self.num_classes)).unsqueeze(-1)
        if _values_are_known(y) and bool(outside.any()):
            wrong = y[outside.squeeze(-1)][0].item()
            raise ValueError(
                f"{self.who}: a label y must lie between 0 and {self.num_classes - 1}, for num_classes = "
                f"{self.num_classes}; got {wrong}. Number the classes from 0 on, or make model and guide with more."
            )
        return codes.masked_fill(outside, torch.nan).reshape(*batch, self.dim)

    def _check(self, y: Any, batch: tuple[int, ...]) -> None:
        """Refuse what is no y of these data."""
        if y is None:
            raise ValueError(
                f"{self.who}: y is missing: a datum is (x, y). Pass (x, y) as the data; of images with labels, "
                f"{argument('labels', True)} makes them so."
            )
        kind = "integers, class labels" if self.num_classes is not None else "floating point"
        if not isinstance(y, Tensor):
            raise ValueError(f"{self.who}: y must be a tensor of {kind}; got {in_short(y)}.")
        integers = not y.is_floating_point() and not y.is_complex() and y.dtype != torch.bool
        if integers is (self.num_classes is None) or y.is_complex():
            fix = "give num_classes for labels" if integers else "give y_shape alone for numbers"
            if self.num_classes is not None and y.dtype == torch.bool:
                fix = "write y.long()"
            raise ValueError(f"{self.who}: y must be {kind}; got {y.dtype}: {fix}.")
        if tuple(y.shape) != (*batch, *self.y_shape):
            wanted = ", ".join(map(str, (*batch, *self.y_shape)))
            raise ValueError(
                f"{self.who}: y must have shape ({wanted}{',' if len((*batch, *self.y_shape)) == 1 else ''}), one for "
                f"each x; got {tuple(y.shape)}. Give data of as many y as x, and model and guide the y_shape of one."
            )


def _values_are_known(y: Tensor) -> bool:
    """Whether values can be read: not while a graph is recorded."""
    return get_proxy_mode() is None and not torch.compiler.is_compiling() and not y.is_meta


def joined(first: Tensor, features: Tensor) -> Tensor:
    """Return rows ``(*batch, n)`` with the features of y ``(*data, dim)`` behind them.

    Args:
        first: may have dims before the data's, as draws of z have.
        features: of y.

    >>> joined(torch.zeros(5, 7, 2), torch.zeros(7, 3)).shape
    torch.Size([5, 7, 5])
    """
    batch = torch.broadcast_shapes(first.shape[:-1], features.shape[:-1])
    return torch.cat([first.expand(*batch, -1), features.expand(*batch, -1)], dim=-1)
