"""Roweis's Frey faces."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.errors import DataCorruptError, DataNotFoundError, quoted
from pyro_vae.data.known_file import ways_out
from pyro_vae.data.source import Request, Source, Split, Splits, split_three_ways

_FILE = "FreyFaces/frey_rawface.mat"
_SHAPE = (1965, 28, 20)
_MATRIX = (560, 1965)
# Of the pixels, not of the file: the same pixels go round in .mat files written by different programs.
_SHA256 = "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"


class FreyFaces(Source):
    """1965 grey images, 28 x 20, of Brendan Frey's face from one film; 1565/200/200 unless told otherwise.

    Neighbouring frames resemble each other, so the split is a fixed permutation, as usual for this data
    set; which one differs between papers. No labels.

    References:
        Sam Roweis's page of data sets (``frey_rawface.mat``); Kingma and Welling 2014, arXiv:1312.6114,
        figure 4.
    """

    binarizations = ("none", "stochastic", "static", "threshold")

    def load(self, request: Request) -> Splits:
        """Read the .mat file; nobody's class downloads it, so neither do we."""
        path = request.root / _FILE
        if not path.is_file():
            raise DataNotFoundError(
                f"load_data: 'frey-faces' was not found, and it is not downloaded. Missing: {path}, a "
                "MATLAB file whose matrix 'ff' (560 x 1965, uint8) holds a 28 x 20 image in each column; "
                f"the images in order have sha256 {_SHA256}. {ways_out(request.root)}. Without the file, "
                "'mnist-5k' is already installed"
            )
        valid_size = 200 if request.valid_size is None else request.valid_size
        faces = torch.from_numpy(_read_mat(path)).unsqueeze(1)
        return split_three_ways(Split(faces), 200, valid_size, "frey-faces", source=str(path))

    def is_available(self, root: Path) -> bool:
        """Whether the file is there; its size depends on the program that wrote it."""
        path = root / _FILE
        return path.is_file() and path.stat().st_size > 0


def _read_mat(path: Path) -> np.ndarray:
    """The images, uint8 ``(1965, 28, 20)``, once their content has been verified."""
    from scipy.io import loadmat, whosmat  # Half a second to import, for this data set alone.

    fix = "Delete the file and unpack it again"
    try:
        # The header first: a damaged one may declare any size.
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        if shapes["ff"] != (_MATRIX, "uint8"):
            raise ValueError(f"'ff' is {shapes['ff']}, not {(_MATRIX, 'uint8')}")
        pixels = np.asarray(loadmat(path, variable_names=["ff"])["ff"])
    except Exception as error:  # On a damaged file scipy raises whatever its parser runs into.
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) cannot be read as a MATLAB file with a "
            f"matrix 'ff', it is truncated or damaged ({quoted(error)}); expected images "
            f"with sha256 {_SHA256}. {fix}"
        ) from error
    found = hashlib.sha256(pixels.T.tobytes()).hexdigest()
    if found != _SHA256:
        raise DataCorruptError(
            f"load_data: {path} holds other pixels than the Frey faces: expected 560 x 1965 uint8 whose "
            f"columns have sha256 {_SHA256}; found {pixels.shape} {pixels.dtype} with sha256 {found}. {fix}"
        )
    return np.ascontiguousarray(pixels.T).reshape(_SHAPE)
