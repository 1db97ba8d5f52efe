"""`load_data`: one call from a name to tensors."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from torch import Tensor

from pyro_vae.data.array_file import ArrayFile
from pyro_vae.data.binarization import BINARIZATIONS, split_generator
from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.data.frey_faces import FreyFaces
from pyro_vae.data.image_data import ImageData
from pyro_vae.data.image_folder import FolderOfImages
from pyro_vae.data.mnist import FASHION_MNIST, MNIST
from pyro_vae.data.mnist_5k import MNIST5K
from pyro_vae.data.mnist_static import StaticMNIST
from pyro_vae.data.quadrants import NAMES, Quadrants
from pyro_vae.data.source import Request, Source, Split, Splits
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_whole
from pyro_vae.runtime.wording import did_you_mean

#: Every data set that `load_data` knows by name. A new one costs a file and a line here.
DATASETS: dict[str, Source] = {
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "mnist-static": StaticMNIST(),
    "frey-faces": FreyFaces(),
    "mnist-5k": MNIST5K(),
}

ARRAY_SUFFIXES = (".npy", ".npz")


def load_data(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    *,
    seed: int = 0,
    valid_size: int | None = None,
    labels: bool = False,
    download: bool = True,
    quadrants: int | None = None,
) -> ImageData:
    """Load images in three splits, binarized in one of four ways.

    Torch's global generator is neither read nor advanced. A warning says how many of the user's own held-out images are
    training images as well.

    Args:
        name: a key of `DATASETS`, or a path: a ``.npy`` or ``.npz`` file, or a folder of images.
        root: folder of the data sets; by default the environment variable ``PYRO_VAE_DATA``, else the
            user's cache folder.
        binarization: a key of `BINARIZATIONS`; by default "stochastic" for MNIST and Fashion-MNIST,
            "static" for "mnist-static", which admits nothing else, and "none" for Frey faces and the user's
            own images.
        seed: fixes the draws that are made at loading; it never changes which image is in which split.
        valid_size: number of validation images, by default the data set's own (see its class). The test
            images stay the same; 0 gives an empty validation split.
        labels: whether a datum is a tuple of an image and its label, int64, which model and guide are given in this
            order: ``data.train``, ``data.valid`` and ``data.test`` then are ``(images, labels)``. Without it, labels
            are in ``data.train_labels`` etc. alone. MNIST, Fashion-MNIST and "mnist-5k" have labels, folders of images
            have them where each class has a folder, and a ``.npz`` where it has ``train_labels`` and so on.
        download: whether missing files of "mnist" or "fashion-mnist" may be fetched; the others never are.
        quadrants: how many quadrants of each image are given, 1, 2 or 3: a datum then is a tuple of the missing pixels,
            binarized, and the image without them, in grey (:class:`pyro_vae.data.quadrants.Quadrants`). A label that is
            asked for comes after these.

    Returns:
        The images, ``(N, *x_shape)`` in each split, with their labels ``(N,)`` or quadrants where they were asked for.

    Raises:
        DataNotFoundError: the files are not there and cannot be fetched.
        DataCorruptError: a file is truncated or not what it should be.
        ValueError: an unknown name or binarization, a split that cannot be made, pixels that are no images, or labels
            asked for where there are none.

    >>> data = load_data("mnist-5k", binarization="threshold")
    >>> data
    ImageData('mnist-5k', 4000/500/500 of 1x28x28, threshold, seed=0)
    >>> data.observe(data.train[:20]).shape
    torch.Size([20, 1, 28, 28])
    """
    label, source = _find_source(name)
    binarization = _choose_binarization(binarization, label, source)
    check_whole("load_data", "seed", seed)
    seed = int(seed)
    if valid_size is not None:
        check_whole("load_data", "valid_size", valid_size)
        valid_size = int(valid_size)
    splits = source.load(Request(_data_root(root, source), valid_size, download))
    if label not in DATASETS:
        _warn_of_copies(splits, label)
    # Pixels of zeros and ones are binarized already: "none" leaves them as they are.
    way = BINARIZATIONS["none" if source.already_binary else binarization]
    images = {}
    for split, stored in splits.by_name.items():
        drawn_later = way.resamples and split == "train"
        images[split] = stored.images if drawn_later else way.load(stored.images, split_generator(seed, split))
    columns: dict[str, tuple[Tensor, ...]] = {split: (tensor,) for split, tensor in images.items()}
    if quadrants is not None:
        parts = Quadrants(splits.train.images.shape[1:], quadrants)
        columns = {
            split: (parts.missing_pixels(images[split]), parts.given_image(stored.images))
            for split, stored in splits.by_name.items()
        }
    if labels:
        columns = _with_labels(columns, splits, label)
    names = (*(("images",) if quadrants is None else NAMES), *(("labels",) if labels else ()))
    return ImageData(
        name=label,
        **{split: tensors if len(tensors) > 1 else tensors[0] for split, tensors in columns.items()},
        binarization=binarization,
        seed=seed,
        content_hash=_content_hash(splits, labels, quadrants),
        source=splits.source,
        train_labels=splits.train.labels,
        valid_labels=splits.valid.labels,
        test_labels=splits.test.labels,
        tensors=names[1:],
        quadrants=quadrants,
    )


def load_again(description: Mapping[str, Any], name: str | os.PathLike[str] | None = None) -> ImageData:
    """Load the data of a description, as `ImageData.describe` returns it, again.

    Args:
        description: of the data.
        name: where they are now, if not at the place that the description names.

    Raises:
        As for `load_data`.
    """
    return load_data(
        description["name"] if name is None else name,
        binarization=description["binarization"],
        seed=description.get("seed") or 0,
        valid_size=description.get("valid_size"),
        labels="labels" in description.get("tensors", ()),
        quadrants=description.get("quadrants"),
    )


def is_available(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> bool:
    """Whether `load_data` would find ``name`` without a download: files present and of the right size.

    Cheap: no file is read, so a damaged one may still fail when it is loaded.

    Args:
        name: as for `load_data`.
        root: as for `load_data`.

    Raises:
        ValueError: ``name`` is neither a data set nor a path.

    >>> is_available("mnist-5k")
    True
    """
    try:
        source = _find_source(name)[1]
        return source.is_available(_data_root(root, source))
    except DataNotFoundError:
        return False


def _find_source(name: str | os.PathLike[str]) -> tuple[str, Source]:
    """Return the data set, and the name under which it is found again from any working directory."""
    text = os.fspath(name)
    if not text:
        raise ValueError(f"load_data: the name of the data is empty. There are {', '.join(DATASETS)}; or give a path.")
    if text in DATASETS:
        return text, DATASETS[text]
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise DataNotFoundError(f"load_data: there is no such home folder: {text}.") from error
    if path.is_dir():
        return str(path), FolderOfImages(path)
    if path.is_file() and path.suffix.lower() in ARRAY_SUFFIXES:
        return str(path), ArrayFile(path)
    accepted = "a path must lead to a .npy file, a .npz file or a folder of images"
    if path.exists():
        raise ValueError(f"load_data: cannot read {path}: {accepted}.")
    if path.suffix.lower() in ARRAY_SUFFIXES or os.sep in text or not isinstance(name, str):
        raise DataNotFoundError(f"load_data: no such file or folder: {path} ({accepted}).")
    raise ValueError(
        f"load_data: unknown data set {text!r}.{did_you_mean(_spelled(text), DATASETS)} There are "
        f"{', '.join(DATASETS)}; {accepted}."
    )


def _choose_binarization(binarization: str | None, label: str, source: Source) -> str:
    if binarization is None:
        return source.binarizations[0]
    if binarization not in BINARIZATIONS:
        raise ValueError(
            "load_data: unknown binarization "
            f"{binarization!r}.{did_you_mean(_spelled(str(binarization)), BINARIZATIONS)} There are "
            f"{', '.join(BINARIZATIONS)}."
        )
    if binarization not in source.binarizations:
        raise ValueError(
            f"load_data({label!r}): the images come already binarized, {argument('binarization')} must be "
            f"{' or '.join(map(repr, source.binarizations))}; got {binarization!r}. Use 'mnist' for any other."
        )
    return binarization


def _data_root(root: str | os.PathLike[str] | None, source: Source | None = None) -> Path:
    chosen = root or os.environ.get("PYRO_VAE_DATA")
    if not chosen and source is not None and not source.needs_root:
        return Path()
    try:
        return Path(chosen or platformdirs.user_cache_dir("pyro-vae")).expanduser().absolute()
    except RuntimeError as error:
        raise DataNotFoundError(
            "load_data: there is no home folder to look for data in. Give their folder by the argument root or the "
            "environment variable PYRO_VAE_DATA."
        ) from error


def _with_labels(columns: dict[str, tuple[Tensor, ...]], splits: Splits, name: str) -> dict[str, tuple[Tensor, ...]]:
    """Return the tensors of each split with the labels behind; raise a ValueError if a split has no labels."""
    labels = {name: split.labels for name, split in splits.by_name.items() if split.labels is not None}
    missing = [name for name in columns if name not in labels]
    if missing:
        whose = "the data" if not labels else " and ".join(missing)
        raise ValueError(
            f"load_data({name!r}): {argument('labels', True)} asks for a label of each image, and {whose} have no "
            f"labels. Leave it out; or take data with labels: mnist, fashion-mnist, mnist-5k, a folder with a folder "
            f"for each class, or a .npz with train_labels, valid_labels and test_labels."
        )
    return {name: (*columns[name], column) for name, column in labels.items()}


def _content_hash(splits: Splits, labels: bool = False, quadrants: int | None = None) -> str:
    """Return the sha256 over shapes, dtypes and stored bytes of the three splits, and of labels if they are used.

    With quadrants, it is over their number as well.
    """
    content = hashlib.sha256(b"" if quadrants is None else f"quadrants {quadrants}\n".encode())
    for name, split in splits.by_name.items():
        columns = {name: split.images}
        if labels and split.labels is not None:
            columns[f"{name} labels"] = split.labels
        for title, column in columns.items():
            array = column.contiguous().numpy()
            # Little-endian is written down so that a machine of the other kind would notice.
            content.update(f"{title} {array.dtype.str} {array.shape}\n".encode())
            content.update(array.data)
    return content.hexdigest()


def _warn_of_copies(splits: Splits, label: str) -> None:
    """Warn of held-out images that are training images as well, with their number."""
    train = set(_digests(splits.train))
    copies = []
    for name, split in {"test": splits.test, "validation": splits.valid}.items():
        number = sum(digest in train for digest in _digests(split))
        if number:
            copies.append(f"{number} of {len(split)} {name} images")
    if copies:
        warnings.warn(
            f"load_data: {label}: {' and '.join(copies)} are training images as well, pixel by pixel: what is measured "
            f"on them says nothing about new images.",
            stacklevel=3,
        )


def _digests(split: Split) -> list[bytes]:
    return [hashlib.sha256(image.numpy()).digest() for image in split.images.contiguous()]


def _spelled(name: str) -> str:
    """Return a name in lower case and with "-", as the names of data sets are spelled."""
    return name.lower().replace("_", "-")
