"""What an owner makes of the network that it is given, and what it says of one that does not fit."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood
from pyro_vae.nn import MLP, ConvNetwork, features_of, make_network, output_bias_of

SIZES = {"in_features": 6, "out_features": 4, "hidden_dims": (5,), "activation": "relu", "x_shape": (1, 3, 2)}


class Told(nn.Module):
    """Keeps what it is told by name, and any other size."""

    def __init__(self, role, **others):
        super().__init__()
        self.role, self.others = role, others

    def forward(self, x):
        return x


class Channels(nn.Module):
    """A convolution is its last layer, with a bias for each channel."""

    def __init__(self):
        super().__init__()
        self.output = nn.Conv2d(4, 2, 1)

    def forward(self, z):
        return self.output(z.reshape(-1, 4, 1, 1).expand(-1, 4, 2, 2)).reshape(*z.shape[:-1], 8)


class Plain(nn.Module):
    """Names two of the sizes, and has one of its own."""

    def __init__(self, in_features, out_features, gain=1.0):
        super().__init__()
        self.in_features, self.out_features, self.gain = in_features, out_features, gain
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.gain * self.linear(x)


def made(network):
    return make_network(network, "Owner", "encoder", **SIZES)


def test_a_class_is_called_with_the_sizes_that_it_names():
    assert (made(Plain).linear.in_features, made(Plain).linear.out_features) == (6, 4)
    assert made(partial(Plain, gain=3.0)).gain == 3.0
    default, others = made(None), made(partial(MLP, hidden_dims=(9, 8)))
    assert (default.hidden_dims, default.activation) == ((5,), "relu")
    assert (others.hidden_dims, others.activation) == ((9, 8), "relu")


def test_the_role_goes_to_a_constructor_that_names_it_alone():
    network = make_network(Told, "Owner", "decoder", **SIZES, blocks=(1, 2))
    assert network.role == "decoder"
    assert network.others == SIZES


def test_a_module_or_a_function_is_taken_as_it_is():
    module = nn.Linear(6, 4)
    assert made(module) is module
    assert made(torch.tanh) is torch.tanh


@pytest.mark.parametrize("network", ["mlp", 3])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(ValueError, match=f"`encoder` must .*; got {type(network).__name__}"):
        made(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Linear(5, 4),
            r"take 6 .*\(2, 3, 6\).*RuntimeError",
        ),
        (nn.Linear(6, 5), r"= 4 features; .*\(2, 3, 5\)"),
        (
            lambda x: x[..., :4].unflatten(-1, (2, 2)),
            r"\(2, 3, 2, 2\) .*Flatten what",
        ),
        (lambda x: x[..., :4].flatten(0, 1), r"shape \(6, 4\) .*keep all dims"),
    ],
)
def test_features_that_do_not_fit_say_what_was_expected(network, message):
    with pytest.raises(ValueError, match=message):
        features_of(network, torch.zeros(2, 3, 6), {"a": 3, "b": 1}, "Owner", "decoder")


def test_other_errors_of_a_network_are_its_own():
    def asks(_):
        raise NotImplementedError("later")

    with pytest.raises(NotImplementedError, match="later"):
        features_of(asks, torch.zeros(2, 6), {"a": 3}, "Owner", "decoder")


def test_features_come_in_the_order_of_their_blocks():
    first, second = features_of(nn.Identity(), torch.arange(4.0).expand(2, 4), {"a": 3, "b": 1}, "Owner", "encoder")
    assert_close(first, torch.arange(3.0).expand(2, 3))
    assert_close(second, torch.full((2, 1), 3.0))


def test_guides_and_likelihoods_give_a_class_the_features_that_they_need():
    assert MeanFieldGuide((1, 3, 2), 4, encoder=Plain).encoder.linear.weight.shape == (8, 6)
    assert BernoulliLikelihood((1, 3, 2), 4, decoder=Plain).decoder.linear.weight.shape == (6, 4)
    assert GaussianLikelihood((3,), 4, scale="predicted", decoder=Plain).decoder.linear.weight.shape == (6, 4)
    likelihood = CategoricalLikelihood((3,), 4, levels=5, decoder=Plain)
    assert likelihood.decoder.linear.weight.shape == (15, 4)
    with pytest.raises(ValueError, match=r"`decoder` must return 6 .* = 6"):
        BernoulliLikelihood((1, 3, 2), 4, decoder=nn.Linear(4, 7))(torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("x_shape", "decoder"),
    [
        ((6,), Plain),
        ((2, 2, 2), Channels()),
    ],
)
def test_the_output_bias_of_a_decoder_without_one_stays_and_a_line_says_so(x_shape, decoder, caplog):
    likelihood = BernoulliLikelihood(x_shape, 4, decoder=decoder)
    before = {name: value.clone() for name, value in likelihood.state_dict().items()}
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        likelihood.initialize_bias(torch.full(x_shape, 0.3))
    assert_close(likelihood.state_dict(), before, rtol=0, atol=0)
    (line,) = caplog.messages
    name = type(likelihood.decoder).__name__
    assert line.startswith(f"BernoulliLikelihood: the output bias starts as the decoder {name} made it, and not at")


def test_a_network_says_which_parameter_is_its_output_bias():
    likelihood = BernoulliLikelihood((6,), 4, decoder=Plain)
    likelihood.decoder.output_bias = likelihood.decoder.linear.bias
    likelihood.initialize_bias(torch.full((6,), 0.3))
    assert output_bias_of(likelihood.decoder) is likelihood.decoder.linear.bias
    assert_close(likelihood(torch.zeros(4)).mean, torch.full((6,), 0.3))
    assert output_bias_of(torch.tanh) is None


def test_a_sequence_of_torchs_own_layers_is_a_network_of_images():
    """Its convolutions take one batch dim alone; with a network's own layers, it gives that network's weights."""
    ours = [ConvNetwork(16, 6, (1, 4, 4), "encoder"), ConvNetwork(3, 16, (1, 4, 4), "decoder")]
    encoder = nn.Sequential(nn.Unflatten(-1, (1, 4, 4)), ours[0].convolutions, nn.Flatten(-3), ours[0].linear)
    decoder = nn.Sequential(ours[1].linear, nn.Unflatten(-1, (64, 1, 1)), ours[1].convolutions, nn.Flatten(-3))
    x = torch.rand(5, 1, 4, 4).round()
    weights = []
    for networks in (ours, (encoder, decoder)):
        guide = MeanFieldGuide((1, 4, 4), 3, encoder=networks[0])
        model = VAE((1, 4, 4), 3, decoder=networks[1])
        torch.manual_seed(1)
        weights.append(log_weights(model, guide, x, 7))
    assert_close(*weights)
