"""Gated convolutions: the arithmetic in numpy, the paper's sizes, and the contract."""

import numpy as np
import pytest
import torch
from image_networks import ImageNetworkChecks
from layers_by_hand import array, convolve, gate, linear, spread
from torch import nn
from torch.testing import assert_close

from pyro_vae.nn import GatedConvNetwork
from pyro_vae.testing import NetworkSuite


class TestImages(ImageNetworkChecks):
    cls = GatedConvNetwork
    options = {"vector_dim": 5}  # noqa: RUF012 (read only)


def test_the_arithmetic_of_an_encoder():
    network = TestImages().new(2 * 5 * 6, 3, (2, 5, 6), "encoder", channels=(4, 6), strides=(1, 2))
    x = np.random.default_rng(0).random((2, 5, 6))
    first, second = (layer.both for layer in network.convolutions)
    h = gate(convolve(x, array(first.weight), array(first.bias), 1, 2))
    h = gate(convolve(h, array(second.weight), array(second.bias), 2, 2))
    assert h.shape == (6, 3, 3)
    # A convolution whose kernel is as large as the image is a linear map of all its pixels.
    full = network.linear[0].both
    h = gate(convolve(h, array(full.weight).reshape(10, 6, 3, 3), array(full.bias)))
    assert_close(network(torch.tensor(x.ravel())), torch.tensor(linear(h.ravel(), network.linear[1])))


def test_the_arithmetic_of_a_decoder():
    network = TestImages().new(3, 2 * 5 * 6, (2, 5, 6), "decoder", channels=(4, 6), strides=(1, 2))
    z = np.random.default_rng(0).normal(size=3)
    h = gate(linear(z, network.linear[0].both)).reshape(6, 3, 3)
    up, plain, last = network.convolutions[0].both, network.convolutions[1].both, network.convolutions[2]
    h = gate(spread(h, array(up.weight), array(up.bias), 2, 2, (5, 6)))
    h = gate(convolve(h, array(plain.weight), array(plain.bias), 1, 2))
    expected = convolve(h, array(last.weight)).ravel() + array(network.output_bias)
    assert_close(network(torch.tensor(z)), torch.tensor(expected))


def test_the_defaults_are_those_of_the_paper():
    """Five gated layers, 32-32-64-64-64 with strides 1-2-1-2-1, then 7 x 7 to a vector of 256."""
    network = GatedConvNetwork(784, 100, (1, 28, 28), "encoder")
    layers = [layer.both for layer in network.convolutions]
    assert [layer.out_channels // 2 for layer in layers] == [32, 32, 64, 64, 64]
    assert [layer.stride[0] for layer in layers] == [1, 2, 1, 2, 1]
    assert {layer.kernel_size for layer in layers} == {(5, 5)}
    assert network.linear[0].both.weight.shape == (2 * 256, 64 * 7 * 7)
    decoder = GatedConvNetwork(50, 784, (1, 28, 28), "decoder")
    kinds = [type(layer.both) for layer in decoder.convolutions[:-1]]
    assert kinds == [nn.Conv2d, nn.ConvTranspose2d, nn.Conv2d, nn.ConvTranspose2d, nn.Conv2d]


@pytest.mark.parametrize("strides", [(1, 2, 1, 2), (1, 2, 1, 2, 3)])
def test_strides_that_do_not_fit_are_told(strides):
    with pytest.raises(ValueError, match="strides must be 1 or 2, one for"):
        GatedConvNetwork(3, 16, (1, 4, 4), "decoder", strides=strides)


class TestContract(NetworkSuite):
    part = "gated_conv(channels=(3, 4), strides=(2, 1), vector_dim=5)"
