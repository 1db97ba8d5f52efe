"""What every network of convolutions owes beside its suite: sizes, further features, blocks, and messages."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models.likelihoods import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 28, 20), (2, 7, 9)]


def randomized(network):
    """The network in float64, with biases and scales other than those of the start."""
    network = network.double()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


class ImageNetworkChecks:
    """Tests of a network of convolutions; a subclass names its class and small options."""

    cls: type[nn.Module]
    options: dict

    def new(self, in_features, out_features, x_shape, role, **others):
        torch.manual_seed(0)
        return randomized(self.cls(in_features, out_features, x_shape, role, **(self.options | others)))

    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_images_of_any_size_are_read_and_made(self, x_shape):
        size = math.prod(x_shape)
        encoder, decoder = self.new(size, 6, x_shape, "encoder"), self.new(3, 2 * size, x_shape, "decoder")
        for batch in ((), (4,), (2, 0, 3)):
            assert encoder(torch.zeros(*batch, size, dtype=torch.float64)).shape == (*batch, 6)
            assert decoder(torch.zeros(*batch, 3, dtype=torch.float64)).shape == (*batch, 2 * size)
        assert encoder.inner_shape == decoder.inner_shape

    def test_the_role_alone_says_which_way_it_goes(self):
        """Also where the numbers of features would fit the other way."""
        encoder, decoder = self.new(16, 32, (1, 4, 4), "encoder"), self.new(16, 32, (1, 4, 4), "decoder")
        assert hasattr(decoder, "output_bias")
        assert not hasattr(encoder, "output_bias")
        assert isinstance(encoder.output, nn.Linear)

    def test_further_features_of_an_encoder_join_the_vector_of_the_image(self):
        """The convolutions see the image alone: the linear layers of both see what is left of it."""
        encoder, x, y = self.new(16 + 3, 5, (1, 4, 4), "encoder"), torch.rand(7, 16).double(), torch.rand(7, 3).double()
        h = encoder.convolutions(x.unflatten(1, (1, 4, 4))).flatten(1)
        assert_close(encoder(torch.cat([x, y], 1)), encoder.linear(torch.cat([h, y], 1)))
        assert (encoder(torch.cat([x, y], 1)) != encoder(torch.cat([x, y + 1], 1))).all()

    def test_blocks_are_laid_out_as_the_likelihood_reads_them(self):
        """The same convolutions, whose channels are in order of block, then channel, then place in the block."""
        z = torch.randn(5, 3, dtype=torch.float64)
        plain = self.new(3, 4 * 32, (2, 4, 4), "decoder")
        blocked = self.new(3, 4 * 32, (2, 4, 4), "decoder", blocks=(1, 3))
        nn.init.zeros_(plain.output_bias)
        nn.init.zeros_(blocked.output_bias)
        channels = plain(z).unflatten(-1, (8, 4, 4))
        first, second = blocked(z).split([32, 96], dim=-1)
        assert_close(first, channels[:, :2].flatten(1))
        for channel, place in ((0, 0), (0, 2), (1, 1)):
            number = 2 + 3 * channel + place
            assert_close(second.unflatten(-1, (2, 4, 4, 3))[:, channel, :, :, place], channels[:, number])

    def test_owners_tell_it_its_role_and_its_blocks(self):
        likelihood = CategoricalLikelihood((1, 4, 4), 3, levels=5, decoder=self.cls)
        assert (likelihood.decoder.role, likelihood.decoder.blocks) == ("decoder", (5,))
        assert MeanFieldGuide((1, 4, 4), 3, encoder=self.cls).encoder.role == "encoder"

    @pytest.mark.parametrize(
        ("cls", "options"),
        [
            (BernoulliLikelihood, {}),
            (GaussianLikelihood, {"scale": "predicted"}),
        ],
    )
    def test_the_output_bias_starts_at_the_mean_pixel_by_pixel(self, cls, options):
        likelihood = cls((2, 4, 4), 3, decoder=self.cls, **options)
        mean = torch.linspace(0.1, 0.9, 32).reshape(2, 4, 4)
        likelihood.initialize_bias(mean)
        assert_close(likelihood(torch.zeros(3)).mean, mean)

    def test_too_small_an_image_is_told_what_would_do(self):
        with pytest.raises(ValueError, match=r"at least 4 x 4 .*x_shape"):
            self.new(12, 5, (1, 4, 3), "encoder")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((16, 5, (16,), "encoder"), r"x_shape must be .*\(16,\)"),
            ((15, 5, (1, 4, 4), "encoder"), "in_features of at least 16"),
            ((3, 17, (1, 4, 4), "decoder"), "multiple of 16; got 17"),
            ((3, 16, (1, 4, 4), "prior"), "role must be .*'prior'"),
            ((0, 16, (1, 4, 4), "decoder"), "in_features must be at"),
            ((3, 0, (1, 4, 4), "decoder"), "out_features must be at"),
        ],
    )
    def test_sizes_that_do_not_fit_are_told(self, arguments, message):
        with pytest.raises(ValueError, match=f"^{self.cls.__name__}: .*{message}"):
            self.new(*arguments)

    def test_blocks_and_channels_that_do_not_fit_are_told(self):
        with pytest.raises(ValueError, match=r"must be 3 \* 16 .*got 16"):
            self.new(3, 16, (1, 4, 4), "decoder", blocks=(1, 2))
        for channels in ((), 8, (8, 0), "88"):
            with pytest.raises(ValueError, match="channels must "):
                self.cls(3, 16, (1, 4, 4), "decoder", channels=channels)
