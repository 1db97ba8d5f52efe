"""CIFAR-10, in the files that torchvision downloads."""

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.download import fetch
from pyro_vae.data.errors import DataCorruptError
from pyro_vae.data.known_file import KnownFile
from pyro_vae.data.source import GREY_BY_DEFAULT, Request, Source, Split, Splits, hold_out
from pyro_vae.runtime.user_code import told


def _batch(name: str, md5: str) -> KnownFile:
    return KnownFile(f"cifar-10-batches-py/{name}", None, "md5", md5)


class CIFAR10(Source):
    """60000 colour images, 32 x 32, of ten classes; 45000/5000/10000 unless told otherwise.

    The last of the 50000 training images are for validation. The files are pickles: they are read only if their md5
    sums are those that torchvision publishes, and by a reader that makes NumPy arrays and nothing else. The authors
    state no licence; they ask that their report be cited.

    References:
        Krizhevsky 2009, *Learning multiple layers of features from tiny images*, technical report, University of
        Toronto.
    """

    binarizations = GREY_BY_DEFAULT
    files = (
        _batch("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        _batch("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        _batch("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        _batch("data_batch_4", "634d18415352ddfa80567beed471001a"),
        _batch("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        _batch("test_batch", "40351d587109b95175f43aff81a1287e"),
    )

    def load(self, request: Request) -> Splits:
        """Read the six files, fetching them first where they are missing and ``request.download`` allows."""
        fetch("cifar-10", "CIFAR10", self.files, request)
        *train, test = [Split(*_read_batch(file.check(request.root))) for file in self.files]
        images = Split(torch.cat([split.images for split in train]), torch.cat([_labels(split) for split in train]))
        valid_size = min(5000, len(images) // 10) if request.valid_size is None else request.valid_size
        splits = hold_out(images, torch.arange(len(images)), valid_size, "cifar-10")
        return Splits(*splits, test, source=str(request.root / "cifar-10-batches-py"))


def _labels(split: Split) -> Tensor:
    assert split.labels is not None
    return split.labels


class _Arrays(pickle.Unpickler):
    """Reads a pickle of NumPy arrays, lists and texts, and calls nothing else that it may name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what makes an array again."""
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")


def _read_batch(path: Path) -> tuple[Tensor, Tensor]:
    """Return images, uint8 ``(N, 3, 32, 32)``, and labels, int64 ``(N,)``."""
    try:
        with path.open("rb") as file:
            # Python 2 wrote the files; its texts are bytes in Latin-1.
            batch = _Arrays(file, encoding="latin1").load()
        images = torch.from_numpy(np.array(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
        labels = torch.tensor(batch["labels"], dtype=torch.int64)
        if len(labels) != len(images):
            raise ValueError(f"{len(images)} images have {len(labels)} labels")
    except PermissionError:  # no damage; its message names the file
        raise
    except Exception as error:  # On damage pickle raises whatever its parser runs into.
        raise DataCorruptError(
            f"load_data: {path} cannot be read as a batch of CIFAR-10 ({told(error)}). Delete the file, then download "
            f"it again."
        ) from error
    return images, labels
