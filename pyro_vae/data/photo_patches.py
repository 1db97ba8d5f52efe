"""Patches of the two photographs in the package scikit-learn, which is a dependency: colour without a download."""

from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.data.image_file import read_image
from pyro_vae.data.known_file import KnownFile, folder_of_package
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits
from pyro_vae.runtime.arguments import argument

_FOLDER = folder_of_package("sklearn") / "datasets" / "images"

SIZE = 32
"""Height and width of a patch."""

COLUMNS = {"train": slice(0, 16), "valid": slice(16, 18), "test": slice(18, 20)}
"""Columns of each photograph's grid of patches that a split has: its left, then two strips on its right."""


class PhotoPatches(Source):
    """520 colour patches of 32 x 32 pixels from two photographs, a temple and a flower; 416/52/52.

    Each photograph, 427 x 640, is cut into 13 rows and 20 columns of patches that do not overlap; the 11 lowest rows of
    pixels are left out. The splits are regions side by side: the left 16 columns are for training, two strips on the
    right for validation and test. So no pixel is in two splits, and held-out patches are no more alike to training
    patches than neighbours in a photograph are. The label is the number of the photograph. It is a set for trying out
    models of colour images and says little about photographs at large. Pixels are what the installed JPEG decoder makes
    of the files, which may differ by a grey level between its versions; the content hash tells.

    Both photographs, china.jpg (danielbuechele) and flower.jpg (vultilion), are under the licence CC BY 2.0.

    References:
        Pedregosa et al. 2011, *Scikit-learn: machine learning in Python*, JMLR 12.
    """

    binarizations = GREY_BY_DEFAULT
    needs_root = False
    files = (
        KnownFile(
            "china.jpg", 196653, "sha256", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"
        ),
        KnownFile(
            "flower.jpg", 142987, "sha256", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"
        ),
    )  # fmt: skip

    def load(self, request: Request) -> Splits:
        """Cut the photographs into patches."""
        if request.valid_size not in (None, 52):
            raise ValueError(
                f"load_data('photo-patches'): the splits are regions of the photographs, {argument('valid_size')} must "
                f"be 52 or left out; got {request.valid_size}."
            )
        if not self.is_available(_FOLDER):
            raise DataNotFoundError(
                f"load_data: 'photo-patches' was not found: scikit-learn ships no china.jpg and flower.jpg in "
                f"{_FOLDER}. Install it again: pip install --force-reinstall scikit-learn."
            )
        patches = torch.stack([_patches(read_image(file.check(_FOLDER))) for file in self.files])
        splits = {name: _columns(patches, columns) for name, columns in COLUMNS.items()}
        return Splits(
            splits["train"], splits["valid"], splits["test"], source="package scikit-learn (china.jpg, flower.jpg)"
        )

    def is_available(self, root: Path) -> bool:
        """Whether the package ships the photographs, wherever ``root`` is."""
        del root
        return all((_FOLDER / file.path).is_file() for file in self.files)


def _patches(photograph: Tensor) -> Tensor:
    """Return the patches of a photograph ``(3, height, width)`` as ``(rows, columns, 3, 32, 32)``.

    >>> _patches(torch.zeros(3, 427, 640)).shape
    torch.Size([13, 20, 3, 32, 32])
    """
    return photograph.unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE).movedim(0, 2)


def _columns(patches: Tensor, columns: slice) -> Split:
    """Return the patches in some columns of each photograph, with its number."""
    region = patches[:, :, columns]
    labels = torch.arange(len(region)).repeat_interleave(region[0].shape[:2].numel())
    return Split(region.flatten(0, 2).contiguous(), labels)
