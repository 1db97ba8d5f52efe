"""MNIST with Larochelle's fixed binarization."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.known_file import KnownFile, missing, not_found
from pyro_vae.data.source import Request, Source, Split, Splits
from pyro_vae.runtime.arguments import argument

_PIXELS = 28 * 28


def _amat(split: str, number: int, sha256: str) -> KnownFile:
    """Return the text file of a split: a line an image, its pixels "0" or "1" with a blank between them."""
    return KnownFile(f"BinarizedMNIST/binarized_mnist_{split}.amat", number * 2 * _PIXELS, "sha256", sha256)


class StaticMNIST(Source):
    """MNIST binarized once and for all, 50000/10000/10000, without labels.

    It is one draw with the grey intensities as probabilities, published so that log-likelihoods of different papers
    compare. The order of the images is not that of MNIST.

    References:
        Larochelle and Murray 2011, *The neural autoregressive distribution estimator*, AISTATS;
        Salakhutdinov and Murray 2008, *On the quantitative analysis of deep belief networks*, ICML. The
        sha256 sums are those of the text files with which this project's results were computed.
    """

    binarizations = ("static",)
    already_binary = True
    files = (
        _amat("train", 50000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
        _amat("valid", 10000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        _amat("test", 10000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    )

    def load(self, request: Request) -> Splits:
        """Read the three text files, which are never downloaded: torchvision has no class for them."""
        if request.valid_size not in (None, 10000):
            raise ValueError(
                f"load_data('mnist-static'): the split is part of the data set, {argument('valid_size')} must be 10000 "
                f"or left out; got {request.valid_size}. Use 'mnist' with {argument('binarization', 'static')} for a "
                f"split of your own."
            )
        absent = missing(self.files, request.root)
        if absent:
            expected = f"{absent}. Expected: {'; '.join(map(str, self.files))}"
            raise not_found(
                "mnist-static",
                "it is not downloaded",
                expected,
                request.root,
                f"Without the files, use 'mnist' ({argument('binarization', 'static')} draws once from your seed), or "
                "'mnist-5k', which is already installed.",
            )
        paths = [file.check(request.root) for file in self.files]
        train, valid, test = (Split(_read_amat(path)) for path in paths)
        return Splits(train, valid, test, source=str(paths[0].parent))


def _read_amat(path: Path) -> Tensor:
    """Return verified text as uint8 ``(N, 1, 28, 28)`` of 0 and 255.

    The hash has confirmed every byte, so each pixel is one character and one separator, and no line needs parsing.
    """
    characters = np.fromfile(path, dtype=np.uint8)[::2]
    return torch.from_numpy((characters - ord("0")) * np.uint8(255)).view(-1, 1, 28, 28)
