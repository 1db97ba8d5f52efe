"""The gated perceptron: the arithmetic by hand, the start, and the contract."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.nn import GatedMLP
from pyro_vae.testing import NetworkSuite


def test_the_arithmetic():
    network = GatedMLP(3, (6, 4), 2).double()
    x = torch.randn(5, 7, 3, dtype=torch.float64)
    h = x
    for layer in network.layers[:-1]:
        nn.init.normal_(layer.both.bias)
        (a, c), (b, d) = layer.both.weight.chunk(2), layer.both.bias.chunk(2)
        h = (h @ a.T + b) * torch.sigmoid(h @ c.T + d)
    assert_close(network(x), h @ network.output.weight.T + network.output.bias)


@pytest.mark.parametrize("batch", [(), (5,), (2, 0, 3)])
@pytest.mark.parametrize("hidden_dims", [(), (6,), (6, 4)])
def test_any_leading_batch_shape(batch, hidden_dims):
    assert GatedMLP(3, hidden_dims, 2)(torch.zeros(*batch, 3)).shape == (*batch, 2)


def test_the_start():
    """Both halves of a hidden layer are U(-a, a) with a = 2 sqrt(6 / (n_in + n_out)); 200 x 300 weights put the
    relative s.e. of the variance a^2 / 3 at sqrt(4/5 / 60000) = 0.0037, of which four are allowed.
    """
    layer = GatedMLP(200, (300,), 1).layers[0]
    for half in layer.both.weight.chunk(2):
        assert half.var().item() == pytest.approx(4 * 6 / 500 / 3, rel=4 * 0.0037)
    assert (layer.both.bias == 0).all()


@pytest.mark.parametrize("hidden_dims", [3, (3, 0), "ab"])
def test_hidden_dims_that_are_no_sizes_are_told(hidden_dims):
    with pytest.raises(ValueError, match=r"^GatedMLP: hidden_dims must be"):
        GatedMLP(3, hidden_dims, 2)


class TestContract(NetworkSuite):
    part = "gated_mlp"
