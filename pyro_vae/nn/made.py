"""The masked network whose outputs for a dimension see only the dimensions before it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pyro_vae.nn.mlp import ACTIVATIONS


class MaskedLinear(nn.Linear):
    """A linear map of which only the weights under the mask are used.

    Args:
        mask: ``(out_features, in_features)``, of zeros and ones.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        # A constant of the layout, which has no place in a checkpoint.
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        return linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    r"""Masked layers from z and a context to ``num_outputs`` numbers for each dimension of z.

    Those for dimension i depend on the context and on :math:`z_j` where j comes before i: their Jacobian is strictly
    triangular in the order ``positions``. A hidden unit sees the dimensions up to a position of its own, spread
    evenly from none (the context alone) to all but the last.

    Args:
        positions: the place of each dimension of z in the order, a permutation of 0 to d - 1.
        context_dim: size of the context, which the first layer takes without a mask.
        hidden_dims: sizes of the hidden layers, each at least d.
        num_outputs: numbers for each dimension.
        activation: one of ``pyro_vae.nn.mlp.ACTIVATIONS``.

    Raises:
        ValueError: a hidden layer is narrower than d, or the activation is unknown.

    References:
        M. Germain, K. Gregor, I. Murray, H. Larochelle (2015), *MADE: Masked autoencoder for distribution
        estimation*, arXiv 1502.03509.

    >>> shift, gate = MADE((0, 1, 2), 4, (20,), num_outputs=2)(torch.zeros(5, 7, 3), torch.zeros(7, 4))
    >>> shift.shape, gate.shape
    (torch.Size([5, 7, 3]), torch.Size([5, 7, 3]))
    """

    def __init__(
        self,
        positions: Sequence[int],
        context_dim: int,
        hidden_dims: Sequence[int],
        num_outputs: int,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.positions = tuple(positions)
        self.num_outputs = num_outputs
        dim = len(self.positions)
        if any(width < dim for width in hidden_dims):
            raise ValueError(
                f"MADE: each hidden layer must be at least as wide as z, {dim}, lest dimensions find no unit that may "
                f"see them; got {tuple(hidden_dims)}."
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"MADE: activation must be one of {', '.join(sorted(ACTIVATIONS))}; got {activation!r}.")
        place = torch.tensor(self.positions)
        # How many positions a unit sees; an input sees its own as well.
        sees = [place + 1, *(torch.arange(width) * dim // width for width in hidden_dims), place.repeat(num_outputs)]
        first, *rest = (MaskedLinear(before <= after[:, None]) for before, after in pairwise(sees))
        self.first = first
        self.context = nn.Linear(context_dim, first.out_features, bias=False)
        nn.init.xavier_uniform_(self.context.weight)
        self.rest = nn.Sequential()
        for layer in rest:
            self.rest.extend([ACTIVATIONS[activation](), layer])

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.rest[-1]) if len(self.rest) else self.first

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """Map z ``(*sample, *batch, d)`` and context ``(*batch, context_dim)`` to ``num_outputs`` tensors like z."""
        # The context's share is computed once for all samples.
        outputs = self.rest(self.first(z) + self.context(context))
        return outputs.unflatten(-1, (self.num_outputs, -1)).unbind(-2)
