"""Residual convolutions: the arithmetic in numpy, the groups of norms, and the contract."""

import numpy as np
import pytest
import torch
from image_networks import ImageNetworkChecks
from layers_by_hand import array, convolve, group_norm, linear, relu
from torch.testing import assert_close

from pyro_vae.nn import ResidualNetwork
from pyro_vae.testing import NetworkSuite


class TestImages(ImageNetworkChecks):
    cls = ResidualNetwork
    options = {"groups": 2, "num_blocks": 1}  # noqa: RUF012 (read only)


def normed(x, norm):
    return relu(group_norm(x, norm.num_groups, array(norm.weight), array(norm.bias)))


def enlarged(x, size):
    """Each pixel repeated: that of the output at (a, b) is that of the input at (a h / H, b w / W), rounded down."""
    rows, columns = (np.arange(large) * small // large for large, small in zip(size, x.shape[1:], strict=True))
    return x[:, rows][:, :, columns]


def block_by_hand(x, block, stride=1, size=None):
    first_norm, *_, first, second_norm, _, second = block.body
    h = normed(x, first_norm)
    h = h if size is None else enlarged(h, size)
    h = convolve(h, array(first.weight), array(first.bias), stride, 1)
    h = convolve(normed(h, second_norm), array(second.weight), array(second.bias), 1, 1)
    for layer in block.shortcut:
        x = convolve(x, array(layer.weight), None, stride) if hasattr(layer, "weight") else enlarged(x, size)
    return x + h


def test_the_arithmetic_of_an_encoder():
    network = TestImages().new(2 * 5 * 6, 3, (2, 5, 6), "encoder", channels=(4,), num_blocks=2)
    x = np.random.default_rng(0).random((2, 5, 6))
    stem, down, same, norm, _ = network.convolutions
    h = convolve(x, array(stem.weight), array(stem.bias), 1, 1)
    h = block_by_hand(block_by_hand(h, down, stride=2), same)
    assert h.shape == (4, 3, 3)
    expected = linear(normed(h, norm).ravel(), network.linear[0])
    assert_close(network(torch.tensor(x.ravel())), torch.tensor(expected))


def test_the_arithmetic_of_a_decoder():
    network = TestImages().new(3, 2 * 5 * 6, (2, 5, 6), "decoder", channels=(4,), num_blocks=2)
    z = np.random.default_rng(0).normal(size=3)
    same, up, norm, _, last = network.convolutions
    h = linear(z, network.linear[0]).reshape(4, 3, 3)
    h = normed(block_by_hand(block_by_hand(h, same), up, size=(5, 6)), norm)
    expected = convolve(h, array(last.weight), None, 1, 1).ravel() + array(network.output_bias)
    assert_close(network(torch.tensor(z)), torch.tensor(expected))


@pytest.mark.parametrize("groups", [3, 8])
def test_groups_that_do_not_divide_the_channels_are_told(groups):
    with pytest.raises(ValueError, match=f"groups must divide .*; got {groups}"):
        ResidualNetwork(3, 16, (1, 4, 4), "decoder", channels=(8, 16), groups=groups)


class TestContract(NetworkSuite):
    part = "resnet(channels=(4,), num_blocks=2, groups=2)"
