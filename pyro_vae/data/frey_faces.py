"""Roweis's Frey faces."""

from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.known_file import not_found, require_content
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits, split_three_ways
from pyro_vae.runtime.user_code import told

_FILE = "FreyFaces/frey_rawface.mat"
_MATRIX = (560, 1965)
# The sum of the pixels, not of the file: different programs wrote .mat files with the same pixels.
_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"


class FreyFaces(Source):
    """1965 grey images, 28 x 20, of Brendan Frey's face from one film; 1565/200/200 unless told otherwise.

    Neighbouring frames resemble each other, so the images are permuted before they are split, as usual for this data
    set. The permutation differs between papers. The images have no labels.

    References:
        Sam Roweis's page of data sets (``frey_rawface.mat``); Kingma and Welling 2014, arXiv:1312.6114,
        figure 4.
    """

    binarizations = GREY_BY_DEFAULT

    def load(self, request: Request) -> Splits:
        """Read the .mat file, which is never downloaded: torchvision has no class for it."""
        path = request.root / _FILE
        if not path.is_file():
            expected = (
                f"{path}, a MATLAB file whose matrix 'ff' (560 x 1965, uint8) holds a 28 x 20 image in each column; "
                f"the images in order have sha256 {_SHA256}"
            )
            instead = "Without the file, 'mnist-5k' is already installed."
            raise not_found("frey-faces", "it is not downloaded", expected, request.root, instead)
        valid_size = 200 if request.valid_size is None else request.valid_size
        faces = torch.from_numpy(_read_mat(path))
        return split_three_ways(Split(faces), 200, valid_size, "frey-faces", source=str(path))

    def is_available(self, root: Path) -> bool:
        """Whether the file is there; its size depends on the program that wrote it."""
        path = root / _FILE
        return path.is_file() and path.stat().st_size > 0


def _read_mat(path: Path) -> np.ndarray:
    """Return the images, uint8 ``(1965, 1, 28, 20)``, once their content has been verified."""
    from scipy.io import loadmat, whosmat  # Half a second to import, for this data set alone.

    remedy = "Delete the file and unpack it again."
    try:
        # The header first: a damaged one may declare any size.
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        if shapes["ff"] != (_MATRIX, "uint8"):
            raise ValueError(f"'ff' is {shapes['ff']}, not {(_MATRIX, 'uint8')}")
        pixels = np.ascontiguousarray(loadmat(path, variable_names=["ff"])["ff"].T)
    except Exception as error:  # On a damaged file scipy raises whatever its parser runs into.
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) cannot be read as a MATLAB file with a "
            f"matrix 'ff', it is truncated or damaged ({told(error)}); expected images "
            f"with sha256 {_SHA256}. {remedy}"
        ) from error
    require_content(pixels, _SHA256, path, remedy)
    return pixels.reshape(-1, 1, 28, 20)
