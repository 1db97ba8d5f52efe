"""Images of which some quadrants are given: a datum is (the missing pixels, the image without them)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.data.binarization import to_grey
from pyro_vae.runtime.checks import check_whole

MISSING = -1.0
"""What a pixel of the given image is where it is missing."""

NAMES = ("missing", "given")
"""Names of x and y."""


class Quadrants:
    r"""One, two or three quadrants of an image are given, as y; the pixels of the others are to be predicted, as x.

    Given are the bottom left quadrant of one, the left half of two, and all but the bottom right quadrant of three. Of
    an odd height or width the upper and the left part are the smaller ones.

    What log p(x | y) scores are the missing pixels alone, a part of the image that y does not tell. On 28 x 28 images
    these are 588, 392 and 196 pixels. They are binarized as the data set's images are; y keeps the grey values of the
    given pixels, whatever is done to x.

    Pyro's tutorial on Sohn et al. predicts grey pixels, as soft targets: that is ``binarization="none"`` with
    ``BernoulliLikelihood(..., soft_targets=True)``, whose nats are no log-probability and do not compare with those of
    binarized pixels. The tutorial's figures of its conditional VAE are minus the ELBO, with 10 samples, of MNIST's test
    images, on which its training is stopped early as well.

    Args:
        image_shape: of an image, ``(channels, height, width)``.
        number: of given quadrants, from 1 to 3.

    Attributes:
        missing: which pixels are missing, boolean ``(height, width)``.

    Raises:
        ValueError: the number is another one, or images have no two rows and columns.

    References:
        K. Sohn, H. Lee, X. Yan (2015), *Learning structured output representation using deep conditional generative
        models*, NeurIPS, section 5.1.

    >>> quadrants = Quadrants((1, 4, 4), 3)
    >>> x, y = quadrants.split(torch.arange(16.0).reshape(1, 1, 4, 4) / 16)
    >>> (16 * x).tolist(), (16 * y[0, 0, 2]).tolist()
    ([[10.0, 11.0, 14.0, 15.0]], [8.0, 9.0, -16.0, -16.0])
    """

    def __init__(self, image_shape: Sequence[int], number: int) -> None:
        check_whole("Quadrants", "quadrants", number)
        if not 1 <= number <= 3:
            raise ValueError(
                f"Quadrants: quadrants, the number of those that are given, must be 1, 2 or 3; got {number}."
            )
        if len(image_shape) != 3 or min(image_shape[1:]) < 2:
            raise ValueError(
                f"Quadrants: images must have shape (channels, height, width), with two rows and columns at least; got "
                f"{tuple(image_shape)}."
            )
        self.image_shape = tuple(image_shape)
        self.number = number
        height, width = self.image_shape[1:]
        rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width)
        bottom, right = rows >= height // 2, columns >= width // 2
        self.missing = {1: ~bottom | right, 2: right.expand(height, width), 3: bottom & right}[number]

    @property
    def x_shape(self) -> tuple[int]:
        """The shape of one x: the number of missing pixels."""
        return (self.image_shape[0] * int(self.missing.sum()),)

    def missing_pixels(self, images: Tensor) -> Tensor:
        """Return the missing pixels of images ``(*batch, *image_shape)``, ``(*batch, *x_shape)``, in their order."""
        return images[..., self.missing.to(images.device)].flatten(-2)

    def given_image(self, images: Tensor) -> Tensor:
        """Return the grey values of images ``(*batch, *image_shape)``, and -1 at the missing pixels."""
        return to_grey(images).masked_fill(self.missing.to(images.device), MISSING)

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of images ``(*batch, *image_shape)``."""
        return self.missing_pixels(images), self.given_image(images)

    def complete(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y ``(*batch, *image_shape)`` with x, ``(*batch, *x_shape)``, in the place of the missing pixels.

        Args:
            x: missing pixels, or what is predicted for them; it may have dims before those of y, as samples have.
            y: given images.
        """
        batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-3])
        images = y.expand(*batch, *self.image_shape).clone()
        images[..., self.missing.to(y.device)] = (
            x.to(images).expand(*batch, -1).unflatten(-1, (self.image_shape[0], int(self.missing.sum())))
        )
        return images
