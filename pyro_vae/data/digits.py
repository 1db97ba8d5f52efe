"""The 8 x 8 digits in the package scikit-learn, which is a dependency: images without a download."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.errors import DataCorruptError, DataNotFoundError
from pyro_vae.data.known_file import folder_of_package, require_content
from pyro_vae.data.source import Request, Source, Split, Splits, split_three_ways

_CSV = folder_of_package("sklearn") / "datasets" / "data" / "digits.csv.gz"
# Of the parsed table, (1797, 65) uint8: 64 pixels from 0 to 16 and a label in each row.
_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


class Digits(Source):
    """1797 handwritten digits of 8 x 8 pixels with 17 grey levels; 1439/179/179 unless told otherwise.

    A pixel counts how many points, of the 16 in a block of 4 x 4, were black; it is kept as the share k / 16, in
    float32. So a likelihood of grey levels has 17 of them, and "stochastic" draws one point of each block. The images
    are permuted before they are split. They are the test set of the original, whose writers were others than those of
    its training set; here all splits have the same writers. Licence: CC BY 4.0 (UCI Machine Learning Repository).

    References:
        Alpaydin and Kaynak 1998, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository;
        Pedregosa et al. 2011, *Scikit-learn: machine learning in Python*, JMLR 12.
    """

    needs_root = False

    def load(self, request: Request) -> Splits:
        """Parse the package's table."""
        table = torch.from_numpy(_read_table())
        images = Split((table[:, :-1].to(torch.float32) / 16).reshape(-1, 1, 8, 8), table[:, -1].long())
        valid_size = 179 if request.valid_size is None else request.valid_size
        return split_three_ways(images, 179, valid_size, "digits", source=f"package scikit-learn ({_CSV.name})")

    def is_available(self, root: Path) -> bool:
        """Whether the package ships the file, wherever ``root`` is."""
        del root
        return _CSV.is_file()


def _read_table() -> np.ndarray:
    """Return the table, uint8 ``(1797, 65)``, once its content has been verified."""
    remedy = "Install it again: pip install --force-reinstall scikit-learn."
    if not _CSV.is_file():
        raise DataNotFoundError(f"load_data: 'digits' was not found: scikit-learn ships no {_CSV}. {remedy}")
    try:
        text = gzip.decompress(_CSV.read_bytes())
        if not text:
            raise ValueError("it is empty")
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataCorruptError(f"load_data: {_CSV} is truncated or damaged ({error}). {remedy}") from error
    require_content(table, _SHA256, _CSV, remedy)
    return table
