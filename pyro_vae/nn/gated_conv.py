"""Gated convolutions, five of them by default, as in van den Berg et al. (2018)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import glu

from pyro_vae.nn.gated_mlp import GAIN, GatedLinear
from pyro_vae.nn.image_network import ImageNetwork, checked_widths
from pyro_vae.nn.initial import start_glorot
from pyro_vae.runtime.checks import check_count

KERNEL = 5


class GatedConvolution(nn.Module):
    r"""The layer :math:`h = (A * x + b) \odot \sigma(C * x + d)` of convolutions.

    Args:
        both: a convolution, or a transposed one, that makes twice the channels of h: A's and C's.
    """

    def __init__(self, both: nn.Module) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(n, in_channels, height, width)`` to gated ones."""
        return glu(self.both(x), dim=1)


class GatedConvNetwork(ImageNetwork):
    r"""Gated convolutions of kernel 5, some of stride 2, and a last one over the whole image; or their mirror.

    As encoder: convolutions with ``channels`` and ``strides``, a gated convolution over all that is left of the image
    to a vector of ``vector_dim``, and a linear output. As decoder: a gated full convolution from z to the small image,
    the same layers backwards, transposed where they enlarge, and a convolution of kernel 1 to the image. The defaults
    are those of the paper, whose encoder ends in 7 x 7 pixels for images of 28 x 28. The authors' code narrows the
    decoder to 32 channels one layer earlier than this mirror.

    Layers have no activation but their gate, and no normalization, as
    :class:`pyro_vae.nn.image_network.ImageNetwork` says. Weights start from Glorot's uniform law, with twice its
    limits in front of a gate, which halves at the start. A stride of 2 halves height and width, rounded up.

    Args:
        in_features: size of the last dimension of the input: the flat image, and whatever an encoder gets beside it.
        out_features: size of the last dimension of the output.
        x_shape: shape of an image, (channels, height, width).
        role: "encoder", from images, or "decoder", to images.
        channels: of each gated convolution, from the image inwards.
        strides: of each, 1 or 2.
        vector_dim: size of the vector at the end of an encoder's convolutions.
        blocks: features of each element of x for each purpose; by default one for each.

    Raises:
        ValueError: the images are too small for the strides, data are no images, or a size is wrong.

    References:
        R. van den Berg, L. Hasenclever, J. Tomczak, M. Welling (2018), *Sylvester normalizing flows for variational
        inference*, arXiv 1803.05649, appendix on architectures.

    >>> import torch
    >>> GatedConvNetwork(784, 100, (1, 28, 28), "encoder")(torch.zeros(2, 784)).shape
    torch.Size([2, 100])
    >>> GatedConvNetwork(50, 784, (1, 28, 28), "decoder").inner_shape
    (64, 7, 7)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        x_shape: Sequence[int],
        role: str,
        channels: Sequence[int] = (32, 32, 64, 64, 64),
        strides: Sequence[int] = (1, 2, 1, 2, 1),
        vector_dim: int = 256,
        blocks: Sequence[int] | None = None,
    ) -> None:
        check_count("GatedConvNetwork", "vector_dim", vector_dim)
        super().__init__(in_features, out_features, x_shape, role, blocks)
        self.channels = checked_widths("GatedConvNetwork", "channels", channels)
        self.strides = checked_widths("GatedConvNetwork", "strides", strides)
        self.vector_dim = vector_dim
        if len(self.strides) != len(self.channels) or not {1, 2}.issuperset(self.strides):
            raise ValueError(
                f"GatedConvNetwork: strides must be 1 or 2, one for each of the {len(self.channels)} channels; got "
                f"{self.strides}."
            )
        sizes = self.sizes(self.strides, "strides=(1, 1, 2, 1, 1)", round_up=True)
        last: list[nn.Module] = []
        if role == "encoder":
            layers = [
                GatedConvolution(nn.Conv2d(n_in, 2 * n_out, KERNEL, stride, padding=KERNEL // 2))
                for (n_in, n_out), stride in zip(
                    pairwise((self.image_channels, *self.channels)), self.strides, strict=True
                )
            ]
        else:
            # A layer backwards makes the channels that it takes forwards; the outermost makes as many as it takes.
            outs = (self.channels[0], *self.channels[:-1])
            levels = zip(self.channels, outs, self.strides, pairwise(sizes), strict=True)
            layers = [GatedConvolution(_backwards(*level)) for level in reversed(list(levels))]
            last = [nn.Conv2d(self.channels[0], self.image_channels, 1, bias=False)]
        inner_shape = (self.channels[-1], *sizes[-1])
        self.connect(
            nn.Sequential(*layers, *last), inner_shape, (vector_dim,) if role == "encoder" else (), GatedLinear
        )
        start_glorot(self, GAIN)
        start_glorot(self.output)


def _backwards(
    n_in: int, n_out: int, stride: int, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return the convolution, before its gate, from a small image to a large one.

    Args:
        n_in: channels of the small image.
        n_out: channels of the large one.
        stride: 1 or 2.
        sizes: height and width of the large image, and of the small one.
    """
    if stride == 1:
        return nn.Conv2d(n_in, 2 * n_out, KERNEL, padding=KERNEL // 2)
    large, small = sizes
    even = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
    return nn.ConvTranspose2d(n_in, 2 * n_out, KERNEL, stride, padding=KERNEL // 2, output_padding=even)
