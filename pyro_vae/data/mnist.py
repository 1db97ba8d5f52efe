"""MNIST and Fashion-MNIST, in the IDX files that torchvision downloads."""

from dataclasses import dataclass

import torch

from pyro_vae.data.download import fetch
from pyro_vae.data.known_file import KnownFile
from pyro_vae.data.source import Request, Source, Split, Splits, hold_out


@dataclass(frozen=True)
class TorchvisionMNIST(Source):
    """A data set of torchvision's MNIST family: 60000 images for training and validation, 10000 to test.

    Attributes:
        name: the name in `DATASETS`.
        torchvision_name: the class in `torchvision.datasets`, which knows the mirrors.
        files: training images, training labels, test images, test labels; uncompressed.
        default_valid_size: how many of the last training images are for validation by default.
    """

    name: str
    torchvision_name: str
    files: tuple[KnownFile, ...]
    default_valid_size: int = 10000

    def load(self, request: Request) -> Splits:
        """Read the four files, fetching them first where they are missing and ``request.download`` allows."""
        fetch(self.name, self.torchvision_name, self.files, request)
        paths = [file.check(request.root) for file in self.files]
        # Imported here, as torchvision takes over a second to import, and only these data sets need it. Its
        # readers are called directly, as the class itself would prefer the unverified *.pt files that old
        # versions left behind.
        from torchvision.datasets.mnist import read_image_file, read_label_file

        images, labels, test_images, test_labels = (
            read(str(path)) for read, path in zip((read_image_file, read_label_file) * 2, paths, strict=True)
        )
        valid_size = self.default_valid_size if request.valid_size is None else request.valid_size
        train, valid = hold_out(Split(images.unsqueeze(1), labels), torch.arange(len(images)), valid_size, self.name)
        return Splits(train, valid, Split(test_images.unsqueeze(1), test_labels), source=str(paths[0].parent))


# A header of 16 or 8 bytes, then one byte a pixel or label.
_SIZES = {
    "train-images-idx3": 16 + 60000 * 784,
    "train-labels-idx1": 8 + 60000,
    "t10k-images-idx3": 16 + 10000 * 784,
    "t10k-labels-idx1": 8 + 10000,
}


def _idx_files(folder: str, *digests: str) -> tuple[KnownFile, ...]:
    """Return the family's four files in a folder; their md5 sums are in the order of `_SIZES`."""
    names = zip(_SIZES.items(), digests, strict=True)
    return tuple(KnownFile(f"{folder}/raw/{name}-ubyte", size, "md5", digest) for (name, size), digest in names)


#: LeCun, Bottou, Bengio and Haffner 1998, *Gradient-based learning applied to document recognition*, Proc.
#: IEEE 86(11). The md5 sums are those of the files that torchvision's mirrors serve, unpacked.
MNIST = TorchvisionMNIST(
    "mnist",
    "MNIST",
    _idx_files(
        "MNIST",
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)

#: Xiao, Rasul and Vollgraf 2017, *Fashion-MNIST: a novel image dataset for benchmarking machine learning
#: algorithms*, arXiv:1708.07747. The md5 sums are those of the files in Debian's package
#: dataset-fashion-mnist, unpacked.
FASHION_MNIST = TorchvisionMNIST(
    "fashion-mnist",
    "FashionMNIST",
    _idx_files(
        "FashionMNIST",
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)
