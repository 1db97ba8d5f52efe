"""The multilayer perceptron whose hidden layers are gated."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import glu

from pyro_vae.nn.image_network import checked_widths
from pyro_vae.nn.initial import start_glorot
from pyro_vae.runtime.checks import check_count

GAIN = 2.0
"""Of the layers in front of a gate, which is one half at the start."""


class GatedLinear(nn.Module):
    r"""The layer :math:`h = (A x + b) \odot \sigma(C x + d)`.

    Args:
        in_features: size of the last dimension of x.
        out_features: size of the last dimension of h.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        # A and C in one matrix product.
        self.both = nn.Linear(in_features, 2 * out_features)
        for half in self.both.weight.detach().chunk(2):
            nn.init.xavier_uniform_(half, GAIN)
        nn.init.zeros_(self.both.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        return glu(self.both(x), dim=-1)


class GatedMLP(nn.Module):
    r"""Fully connected layers :math:`h_l = (A_l h_{l-1} + b_l) \odot \sigma(C_l h_{l-1} + d_l)`, and a linear output.

    A hidden layer has no activation but its gate. Weights start from Glorot's uniform law, in hidden layers with twice
    its limits, as a gate halves at the start; biases start from 0.

    Args:
        in_features: size of the last dimension of the input.
        hidden_dims: sizes of the hidden layers; may be empty, which leaves one linear map.
        out_features: size of the last dimension of the output, which has no gate.

    Raises:
        ValueError: a size is no whole number above 0.

    References:
        Y. Dauphin, A. Fan, M. Auli, D. Grangier (2017), *Language modeling with gated convolutional networks*,
        arXiv 1612.08083; J. Tomczak, M. Welling (2018), *VAE with a VampPrior*, arXiv 1705.07120, section 4.

    >>> import torch
    >>> GatedMLP(784, (300, 300), 80)(torch.zeros(5, 7, 784)).shape
    torch.Size([5, 7, 80])
    """

    def __init__(self, in_features: int, hidden_dims: Sequence[int], out_features: int) -> None:
        super().__init__()
        check_count("GatedMLP", "in_features", in_features)
        check_count("GatedMLP", "out_features", out_features)
        self.in_features = in_features
        self.hidden_dims = checked_widths("GatedMLP", "hidden_dims", hidden_dims, least=0)
        self.out_features = out_features
        widths = (in_features, *self.hidden_dims)
        last = nn.Linear(widths[-1], out_features)
        start_glorot(last)
        self.layers = nn.Sequential(*(GatedLinear(n_in, n_out) for n_in, n_out in pairwise(widths)), last)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map x ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        return self.layers(x)
