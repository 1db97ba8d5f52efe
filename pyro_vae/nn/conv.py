"""Plain strided convolutions from images, and transposed ones to images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pyro_vae.nn.image_network import ImageNetwork, activation_of, checked_widths
from pyro_vae.nn.initial import start_glorot

KERNEL = 4
"""Twice the stride: a transposed convolution then gives each pixel as many taps (Odena, Dumoulin & Olah 2016)."""


class ConvNetwork(ImageNetwork):
    """Convolutions of kernel 4 and stride 2, and linear layers; as decoder the mirror, by transposed convolutions.

    Each convolution halves height and width, rounded down. Weights start as those of :class:`pyro_vae.nn.MLP`; batch
    norm is left out, as :class:`pyro_vae.nn.image_network.ImageNetwork` says.

    Args:
        in_features: size of the last dimension of the input: the flat image, and whatever an encoder gets beside it.
        out_features: size of the last dimension of the output, which has no activation.
        x_shape: shape of an image, (channels, height, width).
        role: "encoder", from images, or "decoder", to images.
        channels: of each convolution, from the image inwards.
        linear_dims: hidden layers between convolutions and vector, from the convolutions inwards; may be empty.
        activation: as of :class:`pyro_vae.nn.MLP`.
        blocks: features of each element of x for each purpose; by default one for each.

    Raises:
        ValueError: the images are too small for the convolutions, data are no images, or a size is wrong.

    References:
        V. Dumoulin, F. Visin (2016), *A guide to convolution arithmetic for deep learning*, arXiv 1603.07285.
        A. Odena, V. Dumoulin, C. Olah (2016), *Deconvolution and checkerboard artifacts*.

    >>> import torch
    >>> ConvNetwork(784, 100, (1, 28, 28), "encoder")(torch.zeros(5, 7, 784)).shape
    torch.Size([5, 7, 100])
    >>> ConvNetwork(50, 784, (1, 28, 28), "decoder").inner_shape
    (64, 7, 7)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        x_shape: Sequence[int],
        role: str,
        channels: Sequence[int] = (32, 64),
        linear_dims: Sequence[int] = (256,),
        activation: str = "relu",
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, x_shape, role, blocks)
        self.channels = checked_widths("ConvNetwork", "channels", channels)
        self.linear_dims = checked_widths("ConvNetwork", "linear_dims", linear_dims, least=0)
        self.activation = activation
        active = activation_of("ConvNetwork", activation)
        sizes = self.sizes([2] * len(self.channels), "channels=(32,)", round_up=False)
        layers: list[nn.Module] = []
        if role == "encoder":
            for n_in, n_out in pairwise((self.image_channels, *self.channels)):
                layers += [nn.Conv2d(n_in, n_out, KERNEL, stride=2, padding=1), active()]
        else:
            outs = (self.image_channels, *self.channels)
            for level in reversed(range(len(self.channels))):
                large, small = sizes[level : level + 2]
                odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])
                # The last one has a bias for each pixel in place of its own, and no activation.
                inside = level > 0
                layers.append(
                    nn.ConvTranspose2d(
                        self.channels[level], outs[level], KERNEL, stride=2, padding=1, output_padding=odd, bias=inside
                    )
                )
                layers += [active()] * inside
        inner_shape = (self.channels[-1], *sizes[-1])
        self.connect(
            nn.Sequential(*layers), inner_shape, self.linear_dims,
            lambda n_in, n_out: nn.Sequential(nn.Linear(n_in, n_out), active()),
        )  # fmt: skip
        start_glorot(self)
