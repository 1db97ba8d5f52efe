"""Data in three splits, as tensors that a training step indexes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarization import BINARIZATIONS, to_grey

Inputs = Tensor | tuple[Tensor, ...]
"""What a model and a guide are called with: x, or a tuple of x and further tensors."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImageData:
    """A data set, held in memory; `pyro_vae.load_data` makes one.

    A datum is x, an image or any other array of numbers; or, if labels or other tensors were asked for, a tuple of x
    and these, whose names are `datum`; or, if quadrants of an image are given, a tuple of its missing pixels, the image
    without them, and what else was asked for. `train`, `valid` and `test` can be passed unchanged to `pyro_vae.fit` and
    to every evaluation, and `first` returns some of the test data. `train_images`, `valid_images` and `test_images` are
    the x alone, `train_labels` etc. the labels.

    Attributes:
        name: the argument of `load_data` (for a file or folder its absolute path).
        train: what a training step indexes, ``(N, *x_shape)``: the stored pixels (uint8, or float32
            in [0, 1]) when `binarization` is "stochastic", else float32. Pass its rows through `observe`.
        valid: float32 model input, ``(N_valid, *x_shape)``; N_valid may be 0.
        test: float32 model input, ``(N_test, *x_shape)``.
        binarization: a key of `BINARIZATIONS`.
        seed: fixes every draw that is not made afresh in the step.
        content_hash: sha256 over the stored, not binarized x and its shapes in the three splits, and over what else
            belongs to a datum.
        source: where the pixels came from; a note for the reader, not needed to load them again.
        train_labels: int64 ``(N,)``, or None where the data set has no labels.
        valid_labels: int64 ``(N_valid,)`` or None.
        test_labels: int64 ``(N_test,)`` or None.
        tensors: names of what follows x in each datum, in its order; empty also for data of images and labels that
            were made without it.
        quadrants: how many quadrants are given (:class:`pyro_vae.data.quadrants.Quadrants`); None for whole images.
        options: options of the data set with which `load_data` was called.
        values: what x is, one of `VALUES`: pixels, real or counts.
        shift: float32 ``x_shape``; the training data's mean, which was subtracted from x if that was standardised.
        scale: float32 ``x_shape``; their standard deviation, by which x was then divided. In nats of x before this,
            log p is lower by the sum of ``scale.log()``, over what was observed.
        classes: the texts that labels and other tensors stand for, in the order of their codes, by the tensor's name.
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
    options: Mapping[str, Any] = field(default_factory=dict)
    values: str = "pixels"
    shift: Tensor | None = None
    scale: Tensor | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def datum(self) -> tuple[str, ...]:
        """Names of the tensors of a datum: ``images``, ``x`` or ``missing``, and what follows it.

        ``x`` is no image; ``missing`` are the pixels that are not given.
        """
        first = "missing" if self.quadrants is not None else "images" if self.values == "pixels" else "x"
        if not isinstance(self.train, tuple):
            return (first,)
        return (first, *(self.tensors or ("labels",)))

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

    @property
    def not_drawn(self) -> str:
        """Why x is not drawn as images, in a sentence; "" where it is."""
        if self.values == "pixels" and len(self.x_shape) == 3 and self.x_shape[0] in (1, 3):
            return ""
        what = {"pixels": "", "real": "real values, of ", "counts": "counts, of "}[self.values]
        return f"Data of {what}shape {self.x_shape} are no images in grey or colour: none are drawn."

    def first(self, number: int | None) -> Inputs:
        """Return the first test data, with all that belongs to each; all of them for None."""
        return first_of(self.test, number)

    def observe(self, rows: Any) -> Any:
        """Return the model input of some training rows, with new noise each time if `binarization` is "stochastic".

        It uses only torch operations without branches on values, so that a traced training step can contain it. The
        noise comes from torch's global generator of the rows' device.

        Args:
            rows: rows of `train`, ``(batch, *x_shape)``, on any device; a tuple of x and other tensors if `train` is
                one.

        Returns:
            float32 ``(batch, *x_shape)``; or a tuple of it and the other tensors, which are unchanged.
        """
        observe = BINARIZATIONS[self.binarization].observe
        return (observe(rows[0]), *rows[1:]) if isinstance(rows, tuple) else observe(rows)

    def train_mean(self) -> Tensor:
        """Return the mean training x, float32 ``x_shape``, added up in float64; for pixels it is in [0, 1].

        Under "stochastic" it is the mean intensity, which is the mean of all possible draws. Missing values do not
        count; what is missing in all training data has mean 0.
        """
        images = self.train_images
        total = torch.zeros(self.x_shape, dtype=torch.float64, device=images.device)
        number = torch.full_like(total, len(images))
        # 1024 images of 28 x 28 take 6 MB in float64. Where values are missing, x is 0.
        for rows in images.split(1024):
            total += to_grey(rows).sum(0, dtype=torch.float64)
        if isinstance(self.train, tuple) and self.options.get("missing") == "mask":
            number = self.train[self.datum.index("mask")].sum(0, dtype=torch.float64)
        return (total / number.clamp(min=1)).to(torch.float32)

    def describe(self) -> dict[str, Any]:
        """Return what a run folder records, in plain Python types; `pyro_vae.data.load_again` loads it again.

        Two data sets are the same if their ``content_hash`` is equal.
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
        if self.values != "pixels":
            description["values"] = self.values
        if self.options:
            description["options"] = {
                name: list(value) if isinstance(value, tuple) else value for name, value in self.options.items()
            }
        if self.classes:
            description["classes"] = {name: list(texts) for name, texts in self.classes.items()}
        return description

    def __repr__(self) -> str:
        sizes = "/".join(str(len(split)) for split in (self.train_images, self.valid_images, self.test_images))
        shape = "x".join(map(str, self.x_shape))
        shape += {"pixels": "", "real": " real values", "counts": " counts"}[self.values]
        if len(self.datum) > 1:
            shape += f" with {', '.join(self.datum[1:])}"
        kind = (
            self.binarization if self.values == "pixels" else "standardised" if self.shift is not None else "as given"
        )
        return f"ImageData({self.name!r}, {sizes} of {shape}, {kind}, seed={self.seed})"


def first_of(inputs: Inputs, number: int | None) -> Inputs:
    """Return the first rows of inputs; all of them for None."""
    return tuple(column[:number] for column in inputs) if isinstance(inputs, tuple) else inputs[:number]


def _images(inputs: Inputs) -> Tensor:
    return inputs[0] if isinstance(inputs, tuple) else inputs
