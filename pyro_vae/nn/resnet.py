"""Residual convolutions with group norm, from images and to images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.nn.image_network import ImageNetwork, activation_of, checked_widths
from pyro_vae.nn.initial import start_glorot
from pyro_vae.runtime.checks import check_count


class ResidualBlock(nn.Module):
    """The sum of a shortcut and of two convolutions of kernel 3, each after a group norm and an activation.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        groups: of the group norms.
        active: class of the activation.
        halve: whether height and width are halved, rounded up, in the first convolution.
        size: height and width to which the image is enlarged in front of the first convolution, if it is.
    """

    def __init__(
        self, n_in: int, n_out: int, groups: int, active: type[nn.Module], *, halve: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        stride = 2 if halve else 1
        enlarge = [] if size is None else [nn.Upsample(size)]
        self.body = nn.Sequential(
            nn.GroupNorm(groups, n_in), active(), *enlarge, nn.Conv2d(n_in, n_out, 3, stride, padding=1),
            nn.GroupNorm(groups, n_out), active(), nn.Conv2d(n_out, n_out, 3, padding=1),
        )  # fmt: skip
        maps = n_in != n_out or halve
        self.shortcut = nn.Sequential(*([nn.Conv2d(n_in, n_out, 1, stride, bias=False)] if maps else []), *enlarge)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(n, n_in, height, width)`` to ``(n, n_out, ...)``."""
        return self.shortcut(x) + self.body(x)


class ResidualNetwork(ImageNetwork):
    """Residual blocks that halve the image level by level, and a linear layer; as decoder the mirror.

    As encoder: a convolution, at each level a block that halves height and width, rounded up, and ``num_blocks - 1``
    that keep them, a last norm and activation, and a linear layer. As decoder: the same backwards; images are enlarged
    by repeating pixels, in front of a convolution. The norms are over groups of channels of one image, and not over
    the batch, as :class:`pyro_vae.nn.image_network.ImageNetwork` says. Weights start as those of
    :class:`pyro_vae.nn.MLP`.

    Args:
        in_features: size of the last dimension of the input: the flat image, and whatever an encoder gets beside it.
        out_features: size of the last dimension of the output, which has no activation.
        x_shape: shape of an image, (channels, height, width).
        role: "encoder", from images, or "decoder", to images.
        channels: of each level, from the image inwards.
        num_blocks: residual blocks of each level.
        groups: of channels in each norm; at least two channels in each.
        activation: as of :class:`pyro_vae.nn.MLP`.
        blocks: features of each element of x for each purpose; by default one for each.

    Raises:
        ValueError: the images are too small for the levels, data are no images, or a size is wrong.

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), *Identity mappings in deep residual networks*, arXiv 1603.05027;
        Y. Wu, K. He (2018), *Group normalization*, arXiv 1803.08494.

    >>> import torch
    >>> ResidualNetwork(3072, 100, (3, 32, 32), "encoder")(torch.zeros(2, 3072)).shape
    torch.Size([2, 100])
    >>> ResidualNetwork(50, 784, (1, 28, 28), "decoder").inner_shape
    (64, 7, 7)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        x_shape: Sequence[int],
        role: str,
        channels: Sequence[int] = (32, 64),
        num_blocks: int = 2,
        groups: int = 8,
        activation: str = "relu",
        blocks: Sequence[int] | None = None,
    ) -> None:
        check_count("ResidualNetwork", "num_blocks", num_blocks)
        check_count("ResidualNetwork", "groups", groups)
        super().__init__(in_features, out_features, x_shape, role, blocks)
        self.channels = checked_widths("ResidualNetwork", "channels", channels)
        self.num_blocks = num_blocks
        self.groups = groups
        self.activation = activation
        active = activation_of("ResidualNetwork", activation)
        if any(width % groups or width == groups for width in self.channels):
            raise ValueError(
                f"ResidualNetwork: groups must divide each of channels = {self.channels}, with two channels or more in "
                f"a group; got {groups}."
            )
        sizes = self.sizes([2] * len(self.channels), "channels=(32,)", round_up=True)
        # The first convolution makes as many channels as the first level.
        levels = list(zip(pairwise((self.channels[0], *self.channels)), sizes[:-1], strict=True))
        layers: list[nn.Module] = []
        if role == "encoder":
            layers.append(nn.Conv2d(self.image_channels, self.channels[0], 3, padding=1))
            for (n_in, n_out), _ in levels:
                layers.append(ResidualBlock(n_in, n_out, groups, active, halve=True))
                layers += [ResidualBlock(n_out, n_out, groups, active) for _ in range(num_blocks - 1)]
            layers += [nn.GroupNorm(groups, self.channels[-1]), active()]
        else:
            for (n_out, n_in), large in reversed(levels):
                layers += [ResidualBlock(n_in, n_in, groups, active) for _ in range(num_blocks - 1)]
                layers.append(ResidualBlock(n_in, n_out, groups, active, size=large))
            layers += [nn.GroupNorm(groups, self.channels[0]), active()]
            layers.append(nn.Conv2d(self.channels[0], self.image_channels, 3, padding=1, bias=False))
        self.connect(nn.Sequential(*layers), (self.channels[-1], *sizes[-1]), (), nn.Linear)
        start_glorot(self)
