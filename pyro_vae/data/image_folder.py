"""A user's folder of image files."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.array_file import given_splits, split_randomly
from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.data.image_file import is_image, read_image
from pyro_vae.data.source import Request, Source, Split, Splits, default_order, hold_out

SPLITS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders of a split are called, in lower case."""

SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?:set|data|images|imgs)?(?![a-z])")
"""A word for a split in a longer name in lower case, as in ``train_images``, ``testset`` or ``val2017``."""

HIDDEN = ("__MACOSX", "@eaDir")
"""Folders that programs leave behind, beside those whose name starts with a dot; nobody's images are in them."""


@dataclass(frozen=True)
class FolderOfImages(Source):
    """Image files in one sub-folder a class, or in the folders of their splits.

    Where there is a folder ``train`` (or ``training``), it and ``valid`` (``val``, ``validation``, ``dev``) and
    ``test`` (``testing``), in capitals or not, are the splits, and nothing else may lie beside them. Each has either
    image files, which have no labels, or one sub-folder a class. Validation images that are missing are a tenth of the
    training images, and so are test images. Without ``train``, the sub-folders are the classes, and the images are
    split 80/10/10 by a fixed permutation; classes with longer names for splits, as ``train_images`` and
    ``test_images``, are refused. Hidden folders and files that are no images are passed over.

    Black-and-white and grey files give one channel, all others three; what an image may be says
    :func:`pyro_vae.data.image_file.read_image`.

    Attributes:
        path: the folder.
    """

    path: Path
    binarizations = ("none", "stochastic", "static", "threshold")
    needs_root = False

    def load(self, request: Request) -> Splits:
        """Read every image into memory."""
        folders = _folders(self.path)
        names = {name: _named_as_split(folders, name) for name in ("train", "valid", "test")}
        named = {name: folder for name, folder in names.items() if folder is not None}
        if named:
            splits = self._given(named, folders, request.valid_size)
        else:
            if not folders:
                loose = _loose(self.path)
                raise DataNotFoundError(
                    f"load_data: no images found in {self.path}: each class needs a folder of its own with image files "
                    f"in it (one folder is enough where there are no classes)"
                    + (f"; {len(loose)} images lie in none, as {loose[0].name}" if loose else "")
                )
            _refuse_splits(self.path, [folder.name for folder in folders])
            splits = split_randomly(_read_classes(self.path, folders)[0], request.valid_size, self.path)
        return splits

    def is_available(self, root: Path) -> bool:
        """Whether the folder is there, wherever ``root`` is."""
        del root
        return self.path.is_dir()

    def _given(self, named: dict[str, Path], folders: list[Path], valid_size: int | None) -> Splits:
        """Read the splits that are there, and cut those that are missing off the training images."""
        empty = [
            child.name for child in self.path.iterdir()
            if child.is_dir() and child.name.lower() in SPLITS and child not in folders
        ]  # fmt: skip
        if empty:
            raise ValueError(f"load_data: {self.path}: {', '.join(empty)} holds no images: fill or remove the folder")
        if "train" not in named:
            raise ValueError(
                f"load_data: {self.path} has a folder {', '.join(f.name for f in named.values())}, but none of "
                f"training images: name it train, or give the folders other names where they are classes"
            )
        besides = [folder.name for folder in folders if folder not in named.values()]
        besides += [file.name for file in _loose(self.path)]
        if besides:
            raise ValueError(
                f"load_data: {self.path} has images outside of its splits {', '.join(f.name for f in named.values())}: "
                f"{_some(besides)}. Put them into a split, or elsewhere"
            )
        read = {name: _read_split(folder) for name, folder in named.items()}
        classes = {name: found for name, (_, found) in read.items() if found is not None}
        if len({tuple(found) for found in classes.values()}) > 1:
            raise ValueError(
                f"load_data: {self.path}: the splits must have the same classes, or labels would not agree; got "
                f"{classes}"
            )
        splits = {name: split for name, (split, _) in read.items()}
        if splits.keys() == {"train"}:
            return split_randomly(splits["train"], valid_size, self.path)
        if "test" not in splits:
            train = splits["train"]
            splits["train"], splits["test"] = hold_out(
                train, default_order(len(train)), max(1, len(train) // 10), str(self.path)
            )
        return given_splits(splits, valid_size, self.path)


def _folders(path: Path) -> list[Path]:
    """Return the sub-folders that hold images, at any depth."""
    found = sorted(child for child in path.iterdir() if child.is_dir() and not _is_hidden(child.name))
    return [folder for folder in found if any(True for _ in _images(folder))]


def _loose(path: Path) -> list[Path]:
    """Return the images right in a folder."""
    return sorted(file for file in path.iterdir() if _is_image(file))


def _images(path: Path) -> Iterator[Path]:
    """Yield all images below a folder, folder by folder.

    Raises:
        ValueError: a folder further down is named as a split, or holds itself, or some are splits under longer names.
    """
    # The order of torchvision's ImageFolder, on which the fixed permutation rests.
    for root, folders, files in sorted(_walk(path)):
        for folder in folders:
            if folder.lower() in SPLITS:
                raise ValueError(
                    f"load_data: {Path(root) / folder} is named as a split and would be mixed with the others: load "
                    f"{root} where it holds the splits, or give the folder another name"
                )
        _refuse_splits(Path(root), folders)
        for name in sorted(files):
            if _is_image(Path(root) / name):
                yield Path(root) / name


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for root, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [folder for folder in folders if not _is_hidden(folder)]
        for folder in folders:
            below = os.path.realpath(Path(root) / folder)
            if os.path.commonpath([real, below]) == below:
                raise ValueError(f"load_data: {Path(root) / folder} is a link to a folder that holds it: remove it")
        yield root, list(folders), files


def _refuse_splits(path: Path, names: list[str]) -> None:
    """Refuse folders beside one another which are splits under longer names.

    One alone, as ``bullet train``, is a class.

    Raises:
        ValueError: they are.
    """
    splits = {name: SPLITS[word] for name in sorted(names) if (word := _split_word(name)) is not None}
    if len(set(splits.values())) > 1:
        raise ValueError(
            f"load_data: {path}: {_some(list(splits))} are named as splits and would be mixed: name them train, valid "
            f"and test, or give them other names where they are classes"
        )


def _split_word(name: str) -> str | None:
    """Return the word for a split in a folder's name, None where there is none.

    >>> [_split_word(name) for name in ("trainA", "val2017", "TestSet", "contest")]
    ['train', 'val', 'test', None]
    """
    found = SPLIT_WORD.search(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return None if found is None else found[1]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in HIDDEN


def _is_image(file: Path) -> bool:
    return not file.name.startswith(".") and not file.is_dir() and is_image(file)


def _named_as_split(folders: list[Path], split: str) -> Path | None:
    """Return the folder of a split, None where there is none.

    Raises:
        ValueError: there are two.
    """
    found = [folder for folder in folders if SPLITS.get(folder.name.lower()) == split]
    if len(found) > 1:
        raise ValueError(
            f"load_data: {found[0].parent} has more than one folder of {split} images: "
            f"{', '.join(folder.name for folder in found)}. Put their images into one"
        )
    return found[0] if found else None


def _read_split(path: Path) -> tuple[Split, list[str] | None]:
    """Read a split, and return its classes, None where its images lie in no folders."""
    folders = _folders(path)
    return _read_classes(path, folders) if folders else (Split(_read(_loose(path), path)), None)


def _read_classes(path: Path, folders: list[Path]) -> tuple[Split, list[str]]:
    """Read one folder a class; returns the classes' names as well.

    Raises:
        ValueError: images lie beside the folders.
    """
    loose = [file.name for file in _loose(path)]
    if loose:
        raise ValueError(
            f"load_data: {path} has images beside its folders {_some([folder.name for folder in folders])}: "
            f"{_some(loose)}. Put them into a folder, or elsewhere"
        )
    files = [list(_images(folder)) for folder in folders]
    labels = [label for label, those in enumerate(files) for _ in those]
    images = _read([file for those in files for file in those], path)
    return Split(images, torch.tensor(labels)), [folder.name for folder in folders]


def _read(files: list[Path], path: Path) -> Tensor:
    """Return images of one shape, uint8 ``(N, channels, height, width)``."""
    first = read_image(files[0])
    images = torch.empty((len(files), *first.shape), dtype=torch.uint8)
    for row, file in enumerate(files):
        pixels = first if row == 0 else read_image(file)
        if pixels.shape != first.shape:
            raise ValueError(
                f"load_data: all images in {path} must have the same (channels, height, width): "
                f"{files[0]} has {tuple(first.shape)}, but {file} has {tuple(pixels.shape)}. Resize or convert them "
                f"beforehand"
            )
        images[row] = pixels
    return images


def _some(names: list[str]) -> str:
    """Return names, of many the first three.

    >>> _some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
