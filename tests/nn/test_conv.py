"""Plain convolutions: the arithmetic in numpy, sizes, and the contract."""

import numpy as np
import pytest
import torch
from image_networks import ImageNetworkChecks
from layers_by_hand import array, convolve, linear, relu, spread
from torch.testing import assert_close

from pyro_vae.nn import ConvNetwork
from pyro_vae.testing import NetworkSuite


class TestImages(ImageNetworkChecks):
    cls = ConvNetwork
    options = {"channels": (4, 6), "linear_dims": (5,)}  # noqa: RUF012 (read only)


def test_the_arithmetic_of_an_encoder():
    network, x = TestImages().new(2 * 5 * 6, 3, (2, 5, 6), "encoder"), np.random.default_rng(0).random((2, 5, 6))
    h = x
    for layer in network.convolutions[::2]:
        h = relu(convolve(h, array(layer.weight), array(layer.bias), stride=2, padding=1))
    assert h.shape == (6, 1, 1)
    hidden, last = network.linear[0][0], network.linear[-1]
    expected = linear(relu(linear(h.ravel(), hidden)), last)
    assert_close(network(torch.tensor(x.ravel())), torch.tensor(expected))


def test_the_arithmetic_of_a_decoder():
    network, z = TestImages().new(3, 2 * 5 * 6, (2, 5, 6), "decoder"), np.random.default_rng(0).normal(size=3)
    h = relu(linear(relu(linear(z, network.linear[0][0])), network.linear[1][0])).reshape(6, 1, 1)
    first, last = network.convolutions[0], network.convolutions[2]
    h = relu(spread(h, array(first.weight), array(first.bias), 2, 1, (2, 3)))
    expected = spread(h, array(last.weight), None, 2, 1, (5, 6)).ravel() + array(network.output_bias)
    assert_close(network(torch.tensor(z)), torch.tensor(expected))


def test_a_pixel_feels_the_inner_pixels_around_it_alone():
    """With stride 2 and kernel 4 twice, an inner pixel reaches 10 pixels of the image."""
    network = ConvNetwork(1, 32 * 32, (1, 32, 32), "decoder", linear_dims=(), activation="tanh").double()
    h = torch.randn(1, *network.inner_shape, dtype=torch.float64, requires_grad=True)
    network.convolutions(h)[0, 0, 16, 16].backward()
    felt = h.grad[0].abs().sum(0) > 0
    assert felt[3:6, 3:6].any()
    felt[3:6, 3:6] = False
    assert not felt.any()


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"activation .*'swish'"):
        ConvNetwork(3, 16, (1, 4, 4), "decoder", activation="swish")


class TestContract(NetworkSuite):
    part = "conv(channels=(4, 6), linear_dims=(5,))"
    x_shape = (1, 4, 4)
