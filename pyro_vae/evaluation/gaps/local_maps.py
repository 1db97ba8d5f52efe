"""Families of invertible maps with parameters of their own for each datum, which start at the identity."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pyro_vae.distributions.coupling import Affine, Halves, couple


class LocalMap:
    r"""Maps T_n(e), one for each datum n, whose parameters are a row of a matrix; all data are mapped at once.

    Affine coupling layers, each with a small network of its own for each datum, are followed by an affine map,

    .. math::
        e_B \leftarrow e_B \exp(s(e_A)) + t(e_A), \qquad T(e) = L e + b, \qquad
        \log |\det| = \sum s(e_A) + \sum_i \log L_{ii}

    where A and B are the first and the second half of e, then the other way round. Before each further pair of layers
    the elements are rolled by a quarter of d, which is undone after the last one. L is lower triangular, or diagonal.
    In one dimension there is nothing to keep, and the map is affine.

    Args:
        dim: d, size of e.
        full_rank: whether L has elements below its diagonal.
        num_flows: coupling layers.
        hidden_dim: of the network between A and (s, t), one layer of tanh.

    References:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017), *Density estimation using Real NVP*, arXiv 1605.08803; C. Cremer,
        X. Li, D. Duvenaud (2018), *Inference suboptimality in variational autoencoders*, arXiv 1801.03558, which
        takes such a flow for a local posterior.

    >>> move, e = LocalMap(3), torch.ones(5, 2, 3)
    >>> e_new, log_det = move(move.start(2, e), e)
    >>> torch.equal(e_new, e), log_det
    (True, tensor([0., 0.]))
    """

    def __init__(self, dim: int, full_rank: bool = False, num_flows: int = 0, hidden_dim: int = 32) -> None:
        self.dim, self.full_rank = dim, full_rank
        self.num_flows = num_flows if dim > 1 else 0
        self._roll = max(1, dim // 4)
        self._sizes: list[tuple[int, ...]] = []
        for layer in range(self.num_flows):
            halves = Halves(dim, swapped=layer % 2 == 1)
            num_features = 2 * len(halves.moved)
            self._sizes += [(hidden_dim, len(halves.fixed)), (hidden_dim,), (num_features, hidden_dim), (num_features,)]
        self._sizes += [(dim,), (dim,)] + [(dim, dim)] * full_rank
        self._lengths = [math.prod(size) for size in self._sizes]
        self.num_parameters = sum(self._lengths)
        """Parameters of a datum."""

    def start(self, count: int, like: Tensor) -> Tensor:
        """Return parameters of the identity, ``(count, num_parameters)``: random first layers of networks, and zeros.

        Args:
            count: how many data there are; all get the same parameters.
            like: a tensor of the dtype and on the device wanted.
        """
        pieces = [like.new_zeros(length) for length in self._lengths]
        for layer in range(self.num_flows):
            # Weights and biases of the layer that reads A; the other layer's are zeros.
            for index, spread in ((4 * layer, 1 / math.sqrt(self._sizes[4 * layer][-1])), (4 * layer + 1, 1.0)):
                pieces[index] = spread * torch.randn(self._lengths[index]).to(like)
        return torch.cat(pieces).repeat(count, 1)

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
        pieces = theta.split(self._lengths, -1)
        parameters = [piece.reshape(len(theta), *size) for piece, size in zip(pieces, self._sizes, strict=True)]
        start, e = e, _only(counted, e)
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
        shift, log_scale, *below = parameters[4 * self.num_flows :]
        e = e.roll(-rolled, -1)
        stretched = e * log_scale.exp()
        if self.full_rank:
            stretched = stretched + torch.einsum("bij,sbj->sbi", below[0].tril(-1), e)
        moved = stretched + shift
        return (moved if counted is None else torch.where(counted, moved, start)), (
            total + _only(counted, log_scale).sum(-1)
        )


def _affine(fixed: Tensor, weights: Sequence[Tensor], counted: Tensor | None) -> Affine:
    """Return the affine functions that each datum's own network, with one hidden layer, computes from A.

    Args:
        fixed: elements A, ``(num_samples, batch, any)``.
        weights: weights and biases of both layers, each ``(batch, ...)``.
        counted: which elements of B count; the others stay 0, and do not enter the next layer.
    """
    first, first_bias, second, second_bias = weights
    hidden = (torch.einsum("bij,sbj->sbi", first, fixed) + first_bias).tanh()
    functions = Affine.bounded(torch.einsum("bij,sbj->sbi", second, hidden) + second_bias)
    return Affine(_only(counted, functions.log_scale), _only(counted, functions.shift))


def _only(counted: Tensor | None, values: Tensor) -> Tensor:
    """Return values, with 0 in the place of what does not count."""
    return values if counted is None else torch.where(counted, values, torch.zeros_like(values))


FAMILIES: dict[str, Callable[[int], LocalMap]] = {
    "diagonal": LocalMap,
    "full_rank": partial(LocalMap, full_rank=True),
    "flow": partial(LocalMap, full_rank=True, num_flows=4),
}
"""The map of each family as a function of the dimension, each a larger family than the one before.

On top of a Gaussian, "diagonal" reaches every other one with the same correlations, "full_rank" every other one.
"""
