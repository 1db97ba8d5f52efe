"""Street View House Numbers, in the files that torchvision downloads."""

from pathlib import Path

import numpy as np
import torch

from pyro_vae.data.download import fetch
from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.known_file import KnownFile
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits, hold_out
from pyro_vae.runtime.user_code import told


class SVHN(Source):
    """99289 colour images, 32 x 32, of digits of house numbers; 68257/5000/26032 unless told otherwise.

    The last of the 73257 training images are for validation, as digits of one house number follow each other. The
    531131 simpler images of the set "extra" are not used. The label is the digit; the files write 10 for 0. The authors
    allow use that is not commercial.

    References:
        Netzer, Wang, Coates, Bissacco, Wu and Ng 2011, *Reading digits in natural images with unsupervised feature
        learning*, NIPS workshop on deep learning.
    """

    binarizations = GREY_BY_DEFAULT
    files = (
        KnownFile("SVHN/train_32x32.mat", None, "md5", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        KnownFile("SVHN/test_32x32.mat", None, "md5", "eb5a983be6a315427106f1b164d9cef3"),
    )

    def load(self, request: Request) -> Splits:
        """Read the two files, fetching them first where they are missing and ``request.download`` allows."""
        fetch("svhn", "SVHN", self.files, request, folder="SVHN", calls=({"split": "train"}, {"split": "test"}))
        images, test = (_read_mat(file.check(request.root)) for file in self.files)
        valid_size = min(5000, len(images) // 10) if request.valid_size is None else request.valid_size
        splits = hold_out(images, torch.arange(len(images)), valid_size, "svhn")
        return Splits(*splits, test, source=str(request.root / "SVHN"))


def _read_mat(path: Path) -> Split:
    """Return images, uint8 ``(N, 3, 32, 32)``, and labels, int64 ``(N,)``."""
    from scipy.io import loadmat  # Half a second to import, for few data sets.

    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].astype(np.int64).flatten()
        if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8:
            raise ValueError(f"X is {images.shape} {images.dtype}, and there are {len(labels)} labels")
    except PermissionError:  # no damage; its message names the file
        raise
    except Exception as error:  # On a damaged file scipy raises whatever its parser runs into.
        raise DataCorruptError(
            f"load_data: {path} cannot be read as a MATLAB file with images X and labels y ({told(error)}). Delete the "
            f"file, then download it again."
        ) from error
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels % 10))
