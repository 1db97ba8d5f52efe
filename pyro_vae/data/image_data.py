"""Images in three splits, as tensors that a training step indexes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarization import BINARIZATIONS, to_grey

Inputs = Tensor | tuple[Tensor, ...]
"""What a model and a guide are called with: images, or a tuple of images and further tensors."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImageData:
    """A data set, held in memory; `pyro_vae.load_data` makes one.

    A datum is an image; or, if labels were asked for, a tuple of an image and its label; or, if quadrants of it are
    given, a tuple of its missing pixels and the image without them. `train`, `valid` and `test`
    can be passed unchanged to `pyro_vae.fit` and to every evaluation, and `first` returns some of the test data.
    `train_images`, `valid_images` and `test_images` are the images alone, `train_labels` etc. the labels.

    Attributes:
        name: the argument of `load_data` (for a file or folder its absolute path).
        train: what a training step indexes, ``(N, *x_shape)``: the stored pixels (uint8, or float32
            in [0, 1]) when `binarization` is "stochastic", else float32. Pass its rows through `observe`.
        valid: float32 model input, ``(N_valid, *x_shape)``; N_valid may be 0.
        test: float32 model input, ``(N_test, *x_shape)``.
        binarization: a key of `BINARIZATIONS`.
        seed: fixes every draw that is not made afresh in the step.
        content_hash: sha256 over the stored, not binarized pixels and shapes of the three splits, and over the labels
            if a datum has one.
        source: where the pixels came from; a note for the reader, not needed to load them again.
        train_labels: int64 ``(N,)``, or None where the data set has no labels.
        valid_labels: int64 ``(N_valid,)`` or None.
        test_labels: int64 ``(N_test,)`` or None.
        tensors: names of what follows the first tensor of each datum; empty also for images and labels that were put
            together without it.
        quadrants: how many quadrants are given (:class:`pyro_vae.data.quadrants.Quadrants`); None for whole images.
    """

    name: str
    train: Inputs
    valid: Inputs
    test: Inputs
    binarization: str
    seed: int
    content_hash: str
    source: str
    train_labels: Tensor | None = None
    valid_labels: Tensor | None = None
    test_labels: Tensor | None = None
    tensors: tuple[str, ...] = ()
    quadrants: int | None = None

    @property
    def datum(self) -> tuple[str, ...]:
        """Names of the tensors of a datum, in their order."""
        first = "images" if self.quadrants is None else "missing"
        return (first, *(self.tensors or ("labels",))) if isinstance(self.train, tuple) else (first,)

    @property
    def labels(self) -> bool:
        """Whether a label belongs to each datum."""
        return "labels" in self.datum

    @property
    def train_images(self) -> Tensor:
        """The training images alone, as `train` has them."""
        return _images(self.train)

    @property
    def valid_images(self) -> Tensor:
        """The validation images alone."""
        return _images(self.valid)

    @property
    def test_images(self) -> Tensor:
        """The test images alone."""
        return _images(self.test)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one image: ``(channels, height, width)``, or ``(features,)`` for flat data."""
        return tuple(self.train_images.shape[1:])

    def first(self, number: int | None) -> Inputs:
        """Return the first test data, with labels if a datum has one; all of them for None."""
        return first_of(self.test, number)

    def observe(self, rows: Any) -> Any:
        """Return the model input of some training rows, with new noise each time if `binarization` is "stochastic".

        It uses only torch operations without branches on values, so that a traced training step can contain it. The
        noise comes from torch's global generator of the rows' device.

        Args:
            rows: rows of `train`, ``(batch, *x_shape)``, on any device; a tuple of images and labels if `train` is one.

        Returns:
            float32 ``(batch, *x_shape)``; or a tuple of it and the unchanged labels, if rows have labels.
        """
        observe = BINARIZATIONS[self.binarization].observe
        return (observe(rows[0]), *rows[1:]) if isinstance(rows, tuple) else observe(rows)

    def train_mean(self) -> Tensor:
        """Return the mean training image, float32 ``x_shape`` in [0, 1], added up in float64.

        Under "stochastic" it is the mean intensity, which is the mean of all possible draws.
        """
        images = self.train_images
        total = torch.zeros(self.x_shape, dtype=torch.float64, device=images.device)
        # 1024 images of 28 x 28 take 6 MB in float64.
        for rows in images.split(1024):
            total += to_grey(rows).sum(0, dtype=torch.float64)
        return (total / len(images)).to(torch.float32)

    def describe(self) -> dict[str, Any]:
        """Return what a run folder records, in plain Python types.

        :func:`pyro_vae.data.load_again` returns the same data again. They are the same if their ``content_hash`` is
        equal.
        """
        splits = {"train": self.train_images, "valid": self.valid_images, "test": self.test_images}
        description = {
            "name": self.name,
            "binarization": self.binarization,
            "seed": self.seed,
            "valid_size": len(self.valid_images),
            "sizes": {name: len(images) for name, images in splits.items()},
            "x_shape": list(self.x_shape),
            "content_hash": self.content_hash,
            "source": self.source,
        }
        if isinstance(self.train, tuple):
            shapes = zip(self.datum, self.train, strict=True)
            description["tensors"] = {name: list(tensor.shape) for name, tensor in shapes}
        if self.quadrants is not None:
            description["quadrants"] = self.quadrants
        return description

    def __repr__(self) -> str:
        sizes = "/".join(str(len(split)) for split in (self.train_images, self.valid_images, self.test_images))
        shape = "x".join(map(str, self.x_shape)) + (f" with {', '.join(self.datum[1:])}" if len(self.datum) > 1 else "")
        return f"ImageData({self.name!r}, {sizes} of {shape}, {self.binarization}, seed={self.seed})"


def first_of(inputs: Inputs, number: int | None) -> Inputs:
    """Return the first rows of inputs; all of them for None."""
    return tuple(column[:number] for column in inputs) if isinstance(inputs, tuple) else inputs[:number]


def _images(inputs: Inputs) -> Tensor:
    return inputs[0] if isinstance(inputs, tuple) else inputs
