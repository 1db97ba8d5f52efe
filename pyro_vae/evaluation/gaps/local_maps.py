"""Families of invertible maps with parameters of their own for each datum, which start at the identity."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pyro_vae.distributions.coupling import Affine, Halves, couple


class LocalMap(ABC):
    r"""Maps T_n(e), one for each datum n, whose parameters are a row of a matrix; all data are mapped at once.

    Args:
        dim: d, size of e.
        sizes: shapes of the pieces that a row of parameters is cut into.
    """

    def __init__(self, dim: int, sizes: Sequence[tuple[int, ...]]) -> None:
        self.dim = dim
        self.sizes = list(sizes)
        self._lengths = [math.prod(size) for size in self.sizes]

    @property
    def num_parameters(self) -> int:
        """Parameters of a datum."""
        return sum(self._lengths)

    @abstractmethod
    def start(self, count: int, like: Tensor) -> Tensor:
        """Return parameters of the identity, ``(count, num_parameters)``."""

    @abstractmethod
    def move(self, parameters: Sequence[Tensor], e: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map e, 0 where it does not count, by parameters that are cut into pieces ``(batch, *size)``."""

    def __call__(self, theta: Tensor, e: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Map e ``(num_samples, batch, d)`` by theta ``(batch, num_parameters)``.

        Args:
            theta: the parameters.
            e: what is mapped.
            counted: which elements are mapped, ``(batch, d)``; the others stay as they are, move nothing, and are in
                no determinant. None maps all.

        Returns:
            T(e) ``(num_samples, batch, d)``, and log|det dT/de|, which broadcasts to ``(num_samples, batch)``.
        """
        moved, log_det = self.move(self._cut(theta), _only(counted, e), counted)
        return (moved if counted is None else torch.where(counted, moved, e)), log_det

    def _cut(self, theta: Tensor) -> list[Tensor]:
        pieces = theta.split(self._lengths, -1)
        return [piece.reshape(len(theta), *size) for piece, size in zip(pieces, self.sizes, strict=True)]


class DiagonalMap(LocalMap):
    r"""T(e) = exp(s) e + b, element by element: a diagonal Gaussian becomes any other one.

    >>> move, e = DiagonalMap(3), torch.ones(5, 2, 3)
    >>> e_new, log_det = move(move.start(2, e), e)
    >>> torch.equal(e_new, e), log_det
    (True, tensor([0., 0.]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [(dim,), (dim,)])

    def start(self, count: int, like: Tensor) -> Tensor:
        """Return zeros."""
        return like.new_zeros(count, self.num_parameters)

    def move(self, parameters: Sequence[Tensor], e: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stretch and shift."""
        shift, log_scale = parameters
        return e * log_scale.exp() + shift, _only(counted, log_scale).sum(-1)


class FullRankMap(LocalMap):
    r"""T(e) = L e + b with L lower triangular, exp(s) on its diagonal: a Gaussian becomes any other one."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, [(dim,), (dim,), (dim, dim)])

    def start(self, count: int, like: Tensor) -> Tensor:
        """Return zeros."""
        return like.new_zeros(count, self.num_parameters)

    def move(self, parameters: Sequence[Tensor], e: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stretch, add what lower dimensions give to higher ones, and shift."""
        shift, log_scale, below = parameters
        mixed = torch.einsum("bij,sbj->sbi", below.tril(-1), e)
        return e * log_scale.exp() + mixed + shift, _only(counted, log_scale).sum(-1)


class FlowMap(LocalMap):
    r"""Affine coupling layers, each with a small network of its own for each datum, then a :class:`FullRankMap`.

    A layer keeps some of e and moves the rest by what they say,

    .. math:: e_B \leftarrow e_B \exp(s(e_A)) + t(e_A), \qquad \log |\det| = \sum s(e_A),

    where A and B are the first and the second half, then the other way round; before each further pair of layers the
    elements are rolled by a quarter of d, which is undone in the end. The
    family holds every full-rank map. In one dimension there is nothing to keep, and it is the affine maps.

    Args:
        dim: d, size of e.
        num_flows: coupling layers.
        hidden_dim: of the network between A and (s, t), one layer of tanh.

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), *Density estimation using Real NVP*, arXiv 1605.08803; C. Cremer,
        X. Li, D. Duvenaud (2018), *Inference suboptimality in variational autoencoders*, arXiv 1801.03558, which
        takes such a flow for a local posterior.
    """

    def __init__(self, dim: int, num_flows: int = 4, hidden_dim: int = 32) -> None:
        self.num_flows = num_flows if dim > 1 else 0
        self.hidden_dim = hidden_dim
        self._affine = FullRankMap(dim)
        self._roll = max(1, dim // 4)
        sizes: list[tuple[int, ...]] = []
        for layer in range(self.num_flows):
            halves = Halves(dim, swapped=layer % 2 == 1)
            num_features = 2 * len(halves.moved)
            sizes += [(hidden_dim, len(halves.fixed)), (hidden_dim,), (num_features, hidden_dim), (num_features,)]
        super().__init__(dim, sizes + self._affine.sizes)

    def start(self, count: int, like: Tensor) -> Tensor:
        """Return random first layers, the same for all data, and zeros, which make it the identity."""
        pieces: list[Tensor] = []
        for size, length in zip(self.sizes[: 4 * self.num_flows], self._lengths, strict=False):
            # The first two pieces of four: weights and biases of the layer that reads A.
            hidden = len(pieces) % 4 < 2
            spread = 1 / math.sqrt(size[-1]) if len(size) == 2 else 1.0
            pieces.append(spread * torch.randn(length).to(like) if hidden else like.new_zeros(length))
        pieces.append(like.new_zeros(self._affine.num_parameters))
        return torch.cat(pieces).repeat(count, 1)

    def move(self, parameters: Sequence[Tensor], e: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Go through the coupling layers, then through the affine map."""
        total, rolled, here = e.new_zeros(()), 0, counted
        for layer in range(self.num_flows):
            if layer and layer % 2 == 0:
                e, rolled = e.roll(self._roll, -1), rolled + self._roll
                here = None if here is None else here.roll(self._roll, -1)
            halves = Halves(self.dim, swapped=layer % 2 == 1)
            moved_here = None if here is None else halves.split(here)[1]
            weights = parameters[4 * layer : 4 * layer + 4]
            e, log_det = couple(halves, partial(_affine, weights=weights, counted=moved_here), e)
            total = total + log_det
        e = e.roll(-rolled, -1)
        e, log_det = self._affine.move(parameters[4 * self.num_flows :], e, counted)
        return e, total + log_det


def _affine(fixed: Tensor, weights: Sequence[Tensor], counted: Tensor | None) -> Affine:
    """Return the affine functions that each datum's own network, with one hidden layer, finds in what stays.

    Args:
        fixed: ``(num_samples, batch, any)``.
        weights: weights and biases of both layers, each ``(batch, ...)``.
        counted: which moved elements count; the others stay 0, and say nothing to the next layer.
    """
    first, first_bias, second, second_bias = weights
    hidden = (torch.einsum("bij,sbj->sbi", first, fixed) + first_bias).tanh()
    functions = Affine.bounded(torch.einsum("bij,sbj->sbi", second, hidden) + second_bias)
    return Affine(_only(counted, functions.log_scale), _only(counted, functions.shift))


def _only(counted: Tensor | None, values: Tensor) -> Tensor:
    """Return values with 0 in the place of what does not count."""
    return values if counted is None else torch.where(counted, values, torch.zeros_like(values))


FAMILIES: dict[str, Callable[[int], LocalMap]] = {"diagonal": DiagonalMap, "full_rank": FullRankMap, "flow": FlowMap}
"""By the name that a caller gives: from the dimension to the maps."""
