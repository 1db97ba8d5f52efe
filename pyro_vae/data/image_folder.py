"""A user's folder of image files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.array_file import given_splits, split_randomly
from pyro_vae.data.errors import DataCorruptError, DataNotFoundError
from pyro_vae.data.source import Request, Source, Split, Splits

# Pillow's modes (https://pillow.readthedocs.io, "Modes") that hold one byte of grey a pixel, or less.
_GREY_MODES = ("1", "L", "LA")
# Modes with more than a byte a channel, which Pillow would clip on its way to RGB.
_DEEP_MODES = ("I", "F")


@dataclass(frozen=True)
class FolderOfImages(Source):
    """Image files in one sub-folder a class, as `torchvision.datasets.ImageFolder` understands it.

    With folders ``train`` and ``test`` (and perhaps ``valid``) of that form inside, these are the splits;
    else the images are split 80/10/10 by a fixed permutation. Grey files give one channel, all others three
    (transparency is dropped).

    Attributes:
        path: the folder.
    """

    path: Path
    binarizations = ("none", "stochastic", "static", "threshold")

    def load(self, request: Request) -> Splits:
        """Read every image into memory."""
        names = [name for name in ("train", "valid", "test") if _has_folders(self.path / name)]
        if not {"train", "test"} <= set(names):
            images, _ = _read_folder(self.path)
            return split_randomly(images, request.valid_size, self.path)
        read = {name: _read_folder(self.path / name) for name in names}
        if len({tuple(classes) for _, classes in read.values()}) > 1:
            found = {name: classes for name, (_, classes) in read.items()}
            raise ValueError(
                f"load_data: {self.path}: the splits must have the same classes, or labels would not agree; got {found}"
            )
        return given_splits({name: split for name, (split, _) in read.items()}, request.valid_size, self.path)

    def is_available(self, root: Path) -> bool:
        """Whether the folder is there, wherever ``root`` is."""
        del root
        return self.path.is_dir()


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(child.is_dir() for child in path.iterdir())


def _read_folder(path: Path) -> tuple[Split, list[str]]:
    """Every image below ``path`` with its label, and the names of the classes."""
    from torchvision.datasets import ImageFolder  # Slow to import, and only needed here.

    try:
        listing = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"load_data: no images found in {path}: each class needs a folder of its own with image files "
            f"in it (one folder is enough where there are no classes). torchvision says: {error}"
        ) from error
    images: Tensor | None = None
    for row, (file, _) in enumerate(listing.samples):
        pixels = _read_image(Path(file))
        if images is None:
            images = torch.empty((len(listing), *pixels.shape), dtype=torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise ValueError(
                f"load_data: all images in {path} must have the same (channels, height, width): "
                f"{listing.samples[0][0]} has {tuple(images.shape[1:])}, but {file} has "
                f"{tuple(pixels.shape)}. Resize or convert them beforehand"
            )
        images[row] = pixels
    assert images is not None  # ImageFolder refuses a folder without images.
    return Split(images, torch.tensor(listing.targets)), listing.classes


def _read_image(path: Path) -> Tensor:
    """One file as uint8 ``(channels, height, width)``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ValueError(
                    f"load_data: {path} has more than 8 bits a channel (mode {image.mode}): convert it to 8"
                )
            pixels = np.array(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    except (OSError, SyntaxError, EOFError) as error:  # Pillow's words for damage, by file format.
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) is not a whole image file ({error}). Replace or delete it"
        ) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(2, 0)
