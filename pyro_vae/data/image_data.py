"""Images in three splits, as tensors that a training step indexes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarization import BINARIZATIONS, to_grey


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImageData:
    """A data set, held in memory; `pyro_vae.load_data` makes one.

    Attributes:
        name: what `load_data` was given (for a file or folder its absolute path).
        train: what a training step indexes, ``(N, *x_shape)``: the stored pixels (uint8, or float32
            in [0, 1]) when `binarization` is "stochastic", else float32. Pass its rows through `observe`.
        valid: float32 model input, ``(N_valid, *x_shape)``; may hold no image.
        test: float32 model input, ``(N_test, *x_shape)``.
        binarization: a key of `BINARIZATIONS`.
        seed: fixes every draw that is not made afresh in the step.
        content_hash: sha256 over the stored, not binarized pixels and shapes of the three splits.
        source: where the pixels came from; a note for the reader, never needed to load them again.
        train_labels: int64 ``(N,)``, or None where the data set has no labels.
        valid_labels: int64 ``(N_valid,)`` or None.
        test_labels: int64 ``(N_test,)`` or None.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    binarization: str
    seed: int
    content_hash: str
    source: str
    train_labels: Tensor | None = None
    valid_labels: Tensor | None = None
    test_labels: Tensor | None = None

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one image: ``(channels, height, width)``, or ``(features,)`` for flat data."""
        return tuple(self.train.shape[1:])

    def observe(self, rows: Tensor) -> Tensor:
        """What the model sees of some training rows; new noise each time when binarization is "stochastic".

        Only torch operations without branches on values, so a traced training step can contain it. The
        noise comes from torch's global generator of the rows' device.

        Args:
            rows: rows of `train`, ``(batch, *x_shape)``, on any device.

        Returns:
            float32 ``(batch, *x_shape)``.
        """
        return BINARIZATIONS[self.binarization].observe(rows)

    def train_mean(self) -> Tensor:
        """The mean training image, float32 ``x_shape`` in [0, 1], added up in float64.

        Under "stochastic" it is the mean intensity, which is the mean of all possible draws.
        """
        total = torch.zeros(self.x_shape, dtype=torch.float64, device=self.train.device)
        # Some 6 MB of float64 at a time for images of 28 x 28.
        for rows in self.train.split(1024):
            total += to_grey(rows).sum(0, dtype=torch.float64)
        return (total / len(self.train)).to(torch.float32)

    def describe(self) -> dict[str, Any]:
        """What a run folder records, in plain Python types.

        ``load_data(d["name"], binarization=d["binarization"], seed=d["seed"], valid_size=d["valid_size"])``
        gives the same data again, which equal ``content_hash`` confirms.
        """
        return {
            "name": self.name,
            "binarization": self.binarization,
            "seed": self.seed,
            "valid_size": len(self.valid),
            "sizes": {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)},
            "x_shape": list(self.x_shape),
            "content_hash": self.content_hash,
            "source": self.source,
        }

    def __repr__(self) -> str:
        sizes = "/".join(str(len(split)) for split in (self.train, self.valid, self.test))
        shape = "x".join(map(str, self.x_shape))
        return f"ImageData({self.name!r}, {sizes} of {shape}, {self.binarization}, seed={self.seed})"
