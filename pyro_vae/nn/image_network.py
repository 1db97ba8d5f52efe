"""The base of networks of convolutions, between an image and a vector in either direction."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_vae.nn.mlp import ACTIVATIONS
from pyro_vae.runtime.checks import check_count, in_short

ROLES = ("encoder", "decoder")


class ImageNetwork(nn.Module):
    """Convolutions that a subclass names, between an image and a vector: an encoder's or a decoder's.

    - Encoder: the first ``prod(x_shape)`` features of the input are the flat image, which the convolutions turn into a
      vector. Further features, as those of a condition, are joined to this vector in front of the linear layers.
    - Decoder: linear layers turn the input, of any size, into a small image of many channels, which the convolutions
      enlarge to x. An ``output_bias`` of the size of the output is added to it: one number for each pixel, where the
      bias of a convolution would be one for each channel.

    No layer normalizes over the batch. Batch norm would make the features of a datum depend on the other data of its
    batch: q(z | x) were then no density of a datum alone, importance weights would be wrong, and many samples could
    not be drawn in one run.

    Args:
        in_features: size of the last dimension of the input; for an encoder at least ``prod(x_shape)``.
        out_features: size of the last dimension of the output; for a decoder a multiple of ``prod(x_shape)``.
        x_shape: shape of an image, (channels, height, width).
        role: ``"encoder"``, from images, or ``"decoder"``, to images.
        blocks: of a decoder, the number of features of each element of x for each purpose, in their order, as the
            likelihood reads them: a block of size 1 is laid out as ``x_shape``, another one as ``(*x_shape, size)``.
            None stands for blocks of size 1.

    Raises:
        ValueError: a size is below 1, x is no image, the role is unknown, or the sizes do not fit the images.
    """

    def __init__(
        self, in_features: int, out_features: int, x_shape: Sequence[int], role: str, blocks: Sequence[int] | None
    ) -> None:
        super().__init__()
        who = type(self).__name__
        check_count(who, "in_features", in_features)
        check_count(who, "out_features", out_features)
        if role not in ROLES:
            raise ValueError(
                f"{who}: role must be 'encoder', from images, or 'decoder', to images; got {in_short(role)}."
            )
        if len(x_shape) != 3:
            raise ValueError(
                f"{who}: x_shape must be (channels, height, width) for convolutions; got {tuple(x_shape)}. Data of "
                f"another shape need a network of linear layers, as MLP or GatedMLP."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.x_shape = tuple(x_shape)
        self.role = role
        size = math.prod(self.x_shape)
        if role == "encoder" and in_features < size:
            raise ValueError(
                f"{who}: an encoder of images of shape {self.x_shape} needs in_features of at least {size}; got "
                f"{in_features}."
            )
        if role == "decoder" and out_features % size:
            raise ValueError(
                f"{who}: a decoder to images of shape {self.x_shape} needs out_features that are a multiple of "
                f"{size}; got {out_features}."
            )
        if blocks is not None and role == "decoder" and sum(blocks) * size != out_features:
            raise ValueError(
                f"{who}: out_features must be {sum(blocks)} * {size} for blocks = {tuple(blocks)}; got {out_features}."
            )
        self.blocks = None if blocks is None else tuple(blocks)

    def connect(
        self,
        convolutions: nn.Module,
        inner_shape: tuple[int, int, int],
        linear_dims: Sequence[int],
        layer: Callable[[int, int], nn.Module],
    ) -> None:
        """Put the convolutions and the linear layers together; for the end of a subclass's constructor.

        Args:
            convolutions: from images to ``inner_shape``, or back, by the role.
            inner_shape: shape of the small image at the inner end of the convolutions.
            linear_dims: hidden linear layers, the one nearest to the convolutions first.
            layer: from the numbers of inputs and outputs to a linear layer with its activation.
        """
        self.inner_shape = inner_shape
        last: list[nn.Module] = []
        widths: tuple[int, ...]
        if self.role == "encoder":
            extra = self.in_features - math.prod(self.x_shape)
            widths = (math.prod(inner_shape) + extra, *linear_dims)
            last.append(nn.Linear(widths[-1], self.out_features))
        else:
            widths = (self.in_features, *reversed(linear_dims), math.prod(inner_shape))
            self.output_bias = nn.Parameter(torch.zeros(self.out_features))
        self.linear = nn.Sequential(*(layer(n_in, n_out) for n_in, n_out in pairwise(widths)), *last)
        self.convolutions = convolutions

    @property
    def output(self) -> nn.Module:
        """The last layer with weights."""
        last = self.linear if self.role == "encoder" else self.convolutions
        return cast(nn.Sequential, last)[-1]

    @property
    def image_channels(self) -> int:
        """The number of channels at the outer end of the convolutions."""
        height, width = self.x_shape[1:]
        return self.x_shape[0] if self.role == "encoder" else self.out_features // (height * width)

    def sizes(self, strides: Sequence[int], fix: str, *, round_up: bool) -> list[tuple[int, int]]:
        """Return height and width of the images in front of the first layer, and after each.

        Args:
            strides: of the layers from the image inwards, each 1 or 2.
            fix: options with which smaller images would do, for the message.
            round_up: whether half of an odd size is rounded up.

        Raises:
            ValueError: the images are too small to be halved so often.
        """
        halvings = sum(stride == 2 for stride in strides)
        if min(self.x_shape[1:]) < 2**halvings:
            raise ValueError(
                f"{type(self).__name__}: images must be at least {2**halvings} x {2**halvings} to be halved "
                f"{halvings} times; got x_shape = {self.x_shape}. Halve them less often, as by {fix}."
            )
        sizes = [self.x_shape[1:]]
        for stride in strides:
            height, width = sizes[-1]
            up = stride - 1 if round_up else 0
            sizes.append(((height + up) // stride, (width + up) // stride))
        return cast(list[tuple[int, int]], sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs ``(*batch, in_features)`` to ``(*batch, out_features)``."""
        batch = inputs.shape[:-1]
        rows = inputs.reshape(batch.numel(), self.in_features)
        return (self._encode(rows) if self.role == "encoder" else self._decode(rows)).reshape(*batch, self.out_features)

    def _encode(self, rows: Tensor) -> Tensor:
        size = math.prod(self.x_shape)
        h = self.convolutions(rows[:, :size].unflatten(1, self.x_shape)).flatten(1)
        return self.linear(h if self.in_features == size else torch.cat([h, rows[:, size:]], dim=1))

    def _decode(self, rows: Tensor) -> Tensor:
        images = self.convolutions(self.linear(rows).unflatten(1, self.inner_shape))
        if self.blocks is None or set(self.blocks) == {1}:
            features = images.flatten(1)
        else:
            channels = self.x_shape[0]
            blocks = images.split([size * channels for size in self.blocks], dim=1)
            features = torch.cat(
                [block.unflatten(1, (channels, -1)).movedim(2, -1).flatten(1) for block in blocks], dim=1
            )
        return features + self.output_bias


def checked_widths(who: str, name: str, widths: Any, least: int = 1) -> tuple[int, ...]:
    """Return the widths of layers as a tuple.

    Args:
        who: whose argument it is, for the message.
        name: of the argument.
        widths: whole numbers above 0.
        least: the smallest number of layers.

    Raises:
        ValueError: there are too few, or one is no whole number above 0.
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise ValueError(f"{who}: {name} must be whole numbers, as (32, 64); got {in_short(widths)}.")
    if len(widths) < least:
        raise ValueError(f"{who}: {name} must have at least {least} number{'s' * (least > 1)}; got {tuple(widths)}.")
    for width in widths:
        check_count(who, name, width)
    return tuple(widths)


def activation_of(who: str, activation: str) -> type[nn.Module]:
    """Return the class of an activation.

    Raises:
        ValueError: its name is unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"{who}: activation must be one of {', '.join(sorted(ACTIVATIONS))}; got {activation!r}.")
    return ACTIVATIONS[activation]
