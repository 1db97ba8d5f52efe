"""Coupling layers: one half of z stays where it is, and determines how each element of the other half is moved."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from pyro_vae.distributions.flow import FlowStep

LOG_SCALE_BOUND = 3.0
"""One affine layer stretches by at most e^3 = 20: enough with a few layers, and none can overflow."""


class Elementwise(Protocol):
    """Increasing functions of one variable, one for each element."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log dy/dx."""

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x, and log dy/dx there."""


class Affine:
    r"""The functions :math:`x \mapsto x \exp(s) + t`.

    Args:
        log_scale: s, of the shape of x.
        shift: t, likewise.
    """

    def __init__(self, log_scale: Tensor, shift: Tensor) -> None:
        self.log_scale, self.shift = log_scale, shift

    @classmethod
    def bounded(cls, features: Tensor) -> "Affine":
        """Return the functions of features ``(*batch, 2 d)``: s, which is bent to stay within 3 of 0, then t."""
        log_scale, shift = features.chunk(2, -1)
        return cls(LOG_SCALE_BOUND * (log_scale / LOG_SCALE_BOUND).tanh(), shift)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log dy/dx."""
        return x * self.log_scale.exp() + self.shift, self.log_scale

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x, and log dy/dx there."""
        return (y - self.shift) * (-self.log_scale).exp(), self.log_scale


@dataclass(frozen=True)
class Halves:
    """Which dims of z stay and which are moved; an odd dim is in the second half, or among the even dims.

    Args:
        dim: of z.
        swapped: whether the second half stays, and the first is moved.
        interleaved: whether the halves are the even and the odd dims, and not the lower and the upper ones.

    >>> halves = Halves(5, swapped=True)
    >>> [*halves.fixed], [*halves.moved]
    ([2, 3, 4], [0, 1])
    """

    dim: int
    swapped: bool = False
    interleaved: bool = False

    @property
    def fixed(self) -> range:
        """The dims that stay where they are."""
        return range(self.dim)[self._slices[0]]

    @property
    def moved(self) -> range:
        """All others."""
        return range(self.dim)[self._slices[1]]

    @property
    def _slices(self) -> tuple[slice, slice]:
        middle = self.dim // 2
        first, second = (slice(None, middle), slice(middle, None))
        if self.interleaved:
            first, second = (slice(None, None, 2), slice(1, None, 2))
        return (second, first) if self.swapped else (first, second)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what stays of z ``(*batch, dim)``, and what is moved."""
        fixed, moved = self._slices
        return z[..., fixed], z[..., moved]

    def join(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Undo :meth:`split`."""
        first, second = (moved, fixed) if self.swapped else (fixed, moved)
        if not self.interleaved:
            return torch.cat([first, second], -1)
        pairs = torch.stack([first[..., : second.shape[-1]], second], -1).flatten(-2)
        return torch.cat([pairs, first[..., second.shape[-1] :]], -1) if self.dim % 2 else pairs


def couple(
    halves: Halves, functions_of: Callable[[Tensor], Elementwise], z: Tensor, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Return z ``(*batch, dim)`` with one half moved, and the log|det| ``(*batch,)`` of that.

    Args:
        halves: which dims stay.
        functions_of: from the half that stays to the functions that move the other.
        z: to be moved.
        inverse: whether to return what is moved to z instead, and the log|det| there.
    """
    fixed, moved = halves.split(z)
    functions = functions_of(fixed)
    moved, log_slope = functions.inverse(moved) if inverse else functions(moved)
    return halves.join(fixed, moved), log_slope.sum(-1)


class CouplingLayer(nn.Module):
    """A coupling whose functions a network computes from the half that stays, and from a context.

    Args:
        halves: which dims stay.
        network: from the half that stays ``(*batch, len(halves.fixed))``, with the context behind it where there is
            one, to features ``(*batch, any)``.
        functions: makes the functions of ``len(halves.moved)`` elements of these features.

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), *Density estimation using Real NVP*, arXiv 1605.08803.
    """

    def __init__(self, halves: Halves, network: nn.Module, functions: Callable[[Tensor], Elementwise]) -> None:
        super().__init__()
        self.halves, self.network, self._functions = halves, network, functions

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z with one half moved, and the log|det| of that.

        Args:
            z: ``(*sample, *batch, dim)``.
            context: ``(*batch, any)``; None where the network takes none.
        """
        return couple(self.halves, partial(self._functions_of, context=context), z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` takes to z, and its log|det| there."""
        return couple(self.halves, partial(self._functions_of, context=context), z, inverse=True)

    def step(self, context: Tensor | None = None) -> FlowStep:
        """Return the layer as a step of a flow."""
        return FlowStep(partial(self.forward, context=context), partial(self.inverse, context=context))

    def _functions_of(self, fixed: Tensor, context: Tensor | None) -> Elementwise:
        if context is not None:
            fixed = torch.cat([fixed, context.expand(*fixed.shape[:-1], -1)], -1)
        return self._functions(self.network(fixed))
