"""`load_data`: one call from a name to tensors."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

from pyro_vae.data.array_file import ArrayFile
from pyro_vae.data.binarization import BINARIZATIONS, split_generator
from pyro_vae.data.cifar_10 import CIFAR10
from pyro_vae.data.digits import Digits
from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.data.frey_faces import FreyFaces
from pyro_vae.data.image_data import ImageData
from pyro_vae.data.image_folder import FolderOfImages
from pyro_vae.data.mnist import FASHION_MNIST, MNIST
from pyro_vae.data.mnist_5k import MNIST5K
from pyro_vae.data.mnist_static import StaticMNIST
from pyro_vae.data.option import data_option
from pyro_vae.data.photo_patches import PhotoPatches
from pyro_vae.data.quadrants import NAMES, Quadrants
from pyro_vae.data.source import Request, Source, Split, Splits
from pyro_vae.data.svhn import SVHN
from pyro_vae.data.table_file import TableFile
from pyro_vae.data.values import MASK
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.checks import check_whole, in_short
from pyro_vae.runtime.wording import did_you_mean

#: Every data set that `load_data` knows by name. A new one costs a file and a line here.
DATASETS: dict[str, Source] = {
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "mnist-static": StaticMNIST(),
    "frey-faces": FreyFaces(),
    "mnist-5k": MNIST5K(),
    "digits": Digits(),
    "cifar-10": CIFAR10(),
    "svhn": SVHN(),
    "photo-patches": PhotoPatches(),
}

FILES: dict[str, type[Source]] = {
    ".npy": ArrayFile, ".npz": ArrayFile, ".csv": TableFile, ".tsv": TableFile, ".parquet": TableFile,
}  # fmt: skip
"""The classes that read a user's files, by their suffix; a folder is one of images."""


def load_data(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    binarization: str | None = None,
    *,
    seed: int = 0,
    valid_size: int | None = None,
    labels: bool | str = False,
    download: bool = True,
    quadrants: int | None = None,
    **options: Any,
) -> ImageData:
    """Load data in three splits: images, binarized in one of four ways, or real values, or counts.

    Torch's global generator is neither read nor advanced. A warning says how many of the user's own held-out data are
    training data as well.

    Args:
        name: a key of `DATASETS`, or a path: a ``.npy`` or ``.npz`` file, a table (``.csv``, ``.tsv``, ``.parquet``),
            or a folder of images.
        root: folder of the data sets; by default the environment variable ``PYRO_VAE_DATA``, else the
            user's cache folder.
        binarization: a key of `BINARIZATIONS`; by default "stochastic" for MNIST, Fashion-MNIST and digits,
            "static" for "mnist-static", which admits nothing else, and "none" for all others. Real values and counts
            admit "none" alone.
        seed: fixes the draws that are made at loading; it never changes which datum is in which split.
        valid_size: number of validation data, by default the data set's own (see its class). The test
            data stay the same; 0 gives an empty validation split.
        labels: whether a datum is a tuple of x and its label, int64, which model and guide are given in this
            order: ``data.train``, ``data.valid`` and ``data.test`` then are ``(x, labels)``. Without it, labels
            are in ``data.train_labels`` etc. alone. MNIST, Fashion-MNIST, "mnist-5k" and others have labels, folders of
            images have them where each class has a folder, an ``.npz`` where it has ``labels`` or ``train_labels`` and
            so on, and a table in the column that ``label_column`` names. A text names this column and asks for it.
        download: whether missing files may be fetched that torchvision fetches, as of "mnist"; others never are.
        quadrants: how many quadrants of each image are given, 1, 2 or 3: a datum then is a tuple of the missing pixels,
            binarized, and the image without them, in grey (:class:`pyro_vae.data.quadrants.Quadrants`). Labels and
            other tensors that are asked for come after these.
        options: those of the data set. For arrays (:class:`~pyro_vae.data.array_file.ArrayFile`): ``tensors``,
            ``values``, ``standardize``, ``missing``. For tables (:class:`~pyro_vae.data.table_file.TableFile`): these
            and ``label_column``, ``split_column``, ``features``, ``drop``, ``separator``. For folders
            (:class:`~pyro_vae.data.image_folder.FolderOfImages`): ``resize``, ``center_crop``.

    Returns:
        x, ``(N, *x_shape)`` in each split, with the tensors ``(N, ...)`` that were asked for.

    Raises:
        DataNotFoundError: the files are not there and cannot be fetched.
        DataCorruptError: a file is truncated or not what it should be.
        ValueError: an unknown name, option or binarization, a split that cannot be made, values that x may not have, or
            labels asked for where there are none.

    >>> data = load_data("mnist-5k", binarization="threshold")
    >>> data
    ImageData('mnist-5k', 4000/500/500 of 1x28x28, threshold, seed=0)
    >>> data.observe(data.train[:20]).shape
    torch.Size([20, 1, 28, 28])
    """
    label, source = _find_source(name)
    if isinstance(labels, str):
        options = {"label_column": labels} | options
        if "label_column" not in source.options or options["label_column"] != labels:
            raise ValueError(
                f"load_data({label!r}): {argument('labels')} must be True or False, and names a column of a table "
                f"only; got {labels!r}."
            )
    source = _with_options(label, source, options)
    binarization = _choose_binarization(binarization, label, source)
    check_whole("load_data", "seed", seed)
    seed = int(seed)
    if valid_size is not None:
        check_whole("load_data", "valid_size", valid_size)
        valid_size = int(valid_size)
    splits = source.load(Request(_data_root(root, source), valid_size, download))
    if splits.values != "pixels" and binarization != "none":
        raise ValueError(
            f"load_data({label!r}): {argument('binarization', binarization)} is for pixels, and these data are "
            f"{splits.values}: leave it out, or say {data_option('values', 'pixels')} where they lie in [0, 1]."
        )
    if label not in DATASETS and splits.values != "counts":
        _warn_of_copies(splits, label)
    # Pixels of zeros and ones are binarized already: "none" leaves them as they are.
    way = BINARIZATIONS["none" if source.already_binary else binarization]
    tensors = _names_of_tensors(source, bool(labels))
    parts = None
    if quadrants is not None:
        if splits.values != "pixels":
            raise ValueError(
                f"load_data({label!r}): {argument('quadrants')} are parts of images, and the data are {splits.values}: "
                f"leave it out."
            )
        parts = Quadrants(splits.train.images.shape[1:], quadrants)
    inputs = {}
    for split, stored in splits.by_name.items():
        drawn_later = way.resamples and split == "train"
        x = stored.images if drawn_later else way.load(stored.images, split_generator(seed, split))
        further = _columns(splits, split, tensors, source, label)
        if parts is None:
            inputs[split] = (x, *further) if further else x
        else:
            inputs[split] = (parts.missing_pixels(x), parts.given_image(stored.images), *further)
    return ImageData(
        name=label,
        **inputs,
        binarization=binarization,
        seed=seed,
        content_hash=_content_hash(splits, tensors, quadrants),
        source=splits.source,
        train_labels=splits.train.labels,
        valid_labels=splits.valid.labels,
        test_labels=splits.test.labels,
        tensors=tensors if quadrants is None else (*NAMES[1:], *tensors),
        quadrants=quadrants,
        options={option: getattr(source, option) for option in source.options if option in options},
        values=splits.values,
        shift=None if splits.shift is None else splits.shift.to(torch.float32),
        scale=None if splits.scale is None else splits.scale.to(torch.float32),
        classes=splits.classes,
    )


def load_again(description: Mapping[str, Any], name: str | os.PathLike[str] | None = None) -> ImageData:
    """Load the data of a description, as `ImageData.describe` returns it, again.

    Args:
        description: of the data.
        name: where they are now, if not at the place that the description names.

    Raises:
        As for `load_data`.
    """
    options = description.get("options") or {}
    if not isinstance(options, Mapping) or not all(isinstance(option, str) for option in options):
        raise ValueError(
            f"load_data: the options of a description must be a mapping of names; got {in_short(options)}."
        )
    return load_data(
        description["name"] if name is None else name,
        binarization=description["binarization"],
        seed=description.get("seed") or 0,
        valid_size=description.get("valid_size"),
        labels="labels" in (description.get("tensors") or ()),
        quadrants=description.get("quadrants"),
        **options,
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
    suffix = path.suffix.lower()
    if path.is_file() and suffix in FILES:
        return str(path), _of_path(FILES[suffix], path)
    accepted = f"a path must lead to a file {', '.join(FILES)}, or to a folder of images"
    if path.exists():
        raise ValueError(f"load_data: cannot read {path}: {accepted}.")
    if suffix in FILES or os.sep in text or not isinstance(name, str):
        raise DataNotFoundError(f"load_data: no such file or folder: {path} ({accepted}).")
    raise ValueError(
        f"load_data: unknown data set {text!r}.{did_you_mean(_spelled(text), DATASETS)} There are "
        f"{', '.join(DATASETS)}; {accepted}."
    )


def _of_path(cls: Any, path: Path) -> Source:
    source: Source = cls(path)
    return source


def source_type(name: str | os.PathLike[str]) -> type[Source]:
    """Return the class that reads a data set, which need not be there; a path of no known kind leads to a folder.

    >>> source_type("gone.npz").__name__, source_type("mnist-5k").__name__
    ('ArrayFile', 'MNIST5K')
    """
    text = os.fspath(name)
    if text in DATASETS:
        return type(DATASETS[text])
    path = Path(text)
    return FolderOfImages if path.is_dir() else FILES.get(path.suffix.lower(), FolderOfImages)


def check_options(name: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Refuse options that a data set does not have, or whose values it does not take; it need not be there.

    Raises:
        ValueError: says which.
    """
    text = os.fspath(name)
    _with_options(text, DATASETS[text] if text in DATASETS else _of_path(source_type(name), Path(text)), options)


def _with_options(label: str, source: Source, options: Mapping[str, Any]) -> Source:
    """Return a data set with its options."""
    for name in options:
        if name not in source.options:
            has = f"It has {', '.join(source.options)}." if source.options else "It has none."
            raise ValueError(f"load_data({label!r}): has no option {name!r}.{did_you_mean(name, source.options)} {has}")
    # Only a data class has options.
    return replace(source, **options) if options else source  # type: ignore[type-var]


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


def _names_of_tensors(source: Source, labels: bool) -> tuple[str, ...]:
    """Return the names of what follows x in each datum: labels come first, but for a mask, unless they are named."""
    names = list(source.datum)
    if labels and "labels" not in names:
        names.insert(1 if names[:1] == [MASK] else 0, "labels")
    return tuple(names)


def _columns(splits: Splits, split: str, names: tuple[str, ...], source: Source, label: str) -> list[Tensor]:
    """Return the tensors that follow x in a split; raise a ValueError if it has no labels."""
    stored = splits.by_name[split]
    if "labels" in names and stored.labels is None:
        without = [name for name, each in splits.by_name.items() if each.labels is None]
        whose = "the data" if len(without) == len(splits.by_name) else " and ".join(without)
        which = f"name their column, {argument('labels', 'COLUMN')}" if "label_column" in source.options else (
            "take data with labels: mnist, fashion-mnist, mnist-5k, a folder with a folder for each class, or a .npz "
            "with labels, or with train_labels, valid_labels and test_labels"
        )  # fmt: skip
        raise ValueError(
            f"load_data({label!r}): {argument('labels', True)} asks for a label of each datum, and {whose} have no "
            f"labels. Leave it out; or {which}."
        )
    tensors = dict(stored.tensors) | ({} if stored.labels is None else {"labels": stored.labels})
    return [tensors[name] for name in names]


def _content_hash(splits: Splits, tensors: tuple[str, ...] = (), quadrants: int | None = None) -> str:
    """Return the sha256 over shapes, dtypes and stored bytes of the three splits, and of all tensors of a datum.

    With quadrants, it is over their number as well.
    """
    content = hashlib.sha256(b"" if quadrants is None else f"quadrants {quadrants}\n".encode())
    for name, split in splits.by_name.items():
        columns = {name: split.images}
        for tensor in tensors:
            column = split.labels if tensor == "labels" else split.tensors[tensor]
            if column is not None:
                columns[f"{name} {tensor}"] = column
        for title, column in columns.items():
            array = column.contiguous().numpy()
            # Little-endian is written down so that a machine of the other kind would notice.
            content.update(f"{title} {array.dtype.str} {array.shape}\n".encode())
            content.update(array.data)
    return content.hexdigest()


def _warn_of_copies(splits: Splits, label: str) -> None:
    """Warn of held-out data that are training data as well, with their number."""
    train = set(_digests(splits.train))
    copies = []
    for name, split in {"test": splits.test, "validation": splits.valid}.items():
        number = sum(digest in train for digest in _digests(split))
        if number:
            copies.append(f"{number} of {len(split)} {name} data")
    if copies:
        warnings.warn(
            f"load_data: {label}: {' and '.join(copies)} are training data as well, value by value: what is measured "
            f"on them says nothing about new data.",
            stacklevel=3,
        )


def _digests(split: Split) -> list[bytes]:
    return [hashlib.sha256(image.numpy()).digest() for image in split.images.contiguous()]


def _spelled(name: str) -> str:
    """Return a name in lower case and with "-", as the names of data sets are spelled."""
    return name.lower().replace("_", "-")
