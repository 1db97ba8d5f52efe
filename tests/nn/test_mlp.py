"""The multilayer perceptron: shapes, start, and the arithmetic by hand."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.nn import MLP
from pyro_vae.nn.mlp import ACTIVATIONS
from pyro_vae.testing import NetworkSuite


@pytest.mark.parametrize("batch", [(), (5,), (2, 0, 3), (4, 2, 3)])
@pytest.mark.parametrize("hidden_dims", [(), (6,), (6, 4)])
def test_any_leading_batch_shape(batch, hidden_dims):
    net = MLP(3, hidden_dims, 2)
    assert net(torch.zeros(*batch, 3)).shape == (*batch, 2)
    assert len([m for m in net.modules() if isinstance(m, nn.Linear)]) == len(hidden_dims) + 1


@pytest.mark.parametrize(("name", "function"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_the_arithmetic(name, function):
    net = MLP(3, (6,), 2, name).double()
    first, last = net.layers[0], net.output
    x = torch.randn(5, 3, dtype=torch.float64)
    nn.init.normal_(first.bias)
    nn.init.normal_(last.bias)
    assert_close(net(x), function(x @ first.weight.T + first.bias) @ last.weight.T + last.bias)
    assert last is net.layers[-1]


def test_the_help_names_every_activation():
    assert [name for name in ACTIVATIONS if f'"{name}"' not in MLP.__doc__] == []


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_is_used(name):
    net = MLP(3, (6, 5), 2, name)
    assert sum(isinstance(m, ACTIVATIONS[name]) for m in net.modules()) == 2


def test_glorots_start():
    """U(-a, a) with a = sqrt(6 / (n_in + n_out)): variance a^2 / 3; 200 x 300 weights put its relative s.e. at
    sqrt(4/5 / 60000) = 0.0037, of which four are allowed.
    """
    weight = MLP(200, (), 300).output.weight
    a = math.sqrt(6 / 500)
    assert weight.abs().max() <= a
    assert weight.var().item() == pytest.approx(a**2 / 3, rel=4 * 0.0037)
    assert all((m.bias == 0).all() for m in MLP(4, (3, 3), 2).modules() if isinstance(m, nn.Linear))


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"^MLP: activation .*'swish'"):
        MLP(3, (4,), 2, "swish")


class TestContract(NetworkSuite):
    part = "mlp"
