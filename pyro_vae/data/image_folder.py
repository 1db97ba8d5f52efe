"""A user's folder of image files."""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.errors import DataNotFoundError
from pyro_vae.data.image_file import is_image, read_image
from pyro_vae.data.option import data_option
from pyro_vae.data.source import (
    GREY_BY_DEFAULT,
    SPLIT_NAMES,
    Request,
    Source,
    Split,
    Splits,
    given_splits,
    split_randomly,
)
from pyro_vae.runtime.checks import in_short

SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(?:set|data|images|imgs)?(?![a-z])")
"""A word for a split in a longer name in lower case, as in ``train_images``, ``testset`` or ``val2017``."""

MOST_PIXELS = 4096
"""Largest height or width to which images are resized."""

HIDDEN = ("__MACOSX", "@eaDir")
"""Folders that programs leave behind. They are passed over, as folders are whose name starts with a dot."""


@dataclass(frozen=True)
class FolderOfImages(Source):
    """Image files in one sub-folder a class, or in the folders of their splits.

    Where there is a folder ``train`` (or ``training``), it and ``valid`` (``val``, ``validation``, ``dev``) and
    ``test`` (``testing``), in capitals or not, are the splits, and nothing else may lie beside them. Each has either
    image files, which have no labels, or one sub-folder a class. Without a folder of validation or of test images, a
    tenth of the training images takes its place. Without ``train``, the sub-folders are the classes, and the images are
    split 80/10/10 by a fixed permutation; classes with longer names for splits, as ``train_images`` and
    ``test_images``, are refused. Hidden folders and files that are no images are passed over.

    Black-and-white and grey files give one channel, all others three; see :func:`pyro_vae.data.image_file.read_image`.

    Attributes:
        path: the folder.
        resize: height and width to which each image is resized, by a bilinear filter that averages over all pixels that
            it makes one of; by default all images must have one size.
        center_crop: whether only the largest region in each image's middle is resized that has the proportions of
            resize; else the image's own proportions change.
    """

    path: Path
    resize: tuple[int, int] | None = None
    center_crop: bool = False
    binarizations = GREY_BY_DEFAULT
    needs_root = False
    options = ("resize", "center_crop")

    def __post_init__(self) -> None:
        if self.resize is not None:
            size = tuple(self.resize) if isinstance(self.resize, list | tuple) else ()
            whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in size)
            if len(size) != 2 or not whole or not all(1 <= side <= MOST_PIXELS for side in size):
                raise ValueError(
                    f"load_data: resize must be a height and a width from 1 to {MOST_PIXELS}; got "
                    f"{in_short(self.resize)}."
                )
            object.__setattr__(self, "resize", (int(size[0]), int(size[1])))
        if not isinstance(self.center_crop, bool):
            raise ValueError(f"load_data: center_crop must be True or False; got {in_short(self.center_crop)}.")
        if self.center_crop and self.resize is None:
            raise ValueError(
                f"load_data: center_crop must have a size to crop and resize to; got none: say "
                f"{data_option('resize', (32, 32))}."
            )

    def load(self, request: Request) -> Splits:
        """Read every image into memory."""
        files = list(_images(self.path))
        groups = _grouped(files, self.path)
        if any(name.lower() in SPLIT_NAMES for name in groups):
            return self._read_splits(groups, request.valid_size)
        loose = groups.pop("", [])
        if not groups:
            raise DataNotFoundError(
                f"load_data: no images found in {self.path}: each class needs a folder of its own with image files "
                f"in it (one folder is enough where there are no classes)"
                + (f"; {len(loose)} images lie in none, as {loose[0].name}." if loose else ".")
            )
        _refuse_splits(self.path, groups)
        images, _ = self._read_split(files, self.path)
        return split_randomly(images, request.valid_size, self.path)

    def _read_splits(self, groups: dict[str, list[Path]], valid_size: int | None) -> Splits:
        """Read the splits that are there, and cut those that are missing off the training images."""
        loose = [file.name for file in groups.pop("", [])]
        folders: dict[str, list[str]] = {"train": [], "valid": [], "test": [], "none": []}
        for name in groups:
            folders[SPLIT_NAMES.get(name.lower(), "none")].append(name)
        outside = folders.pop("none") + loose
        for split, names in folders.items():
            if len(names) > 1:
                raise ValueError(
                    f"load_data: {self.path} has more than one folder of {split} images: {', '.join(names)}. Put their "
                    f"images into one."
                )
        in_words = ", ".join(itertools.chain(*folders.values()))
        empty = [
            child.name
            for child in self.path.iterdir()
            if child.is_dir() and child.name.lower() in SPLIT_NAMES and child.name not in groups
        ]
        if empty:
            raise ValueError(f"load_data: {self.path}: {', '.join(empty)} holds no images: fill or remove the folder.")
        if not folders["train"]:
            raise ValueError(
                f"load_data: {self.path} has a folder {in_words}, but none of training images: name it train, or give "
                f"the folders other names where they are classes."
            )
        if outside:
            raise ValueError(
                f"load_data: {self.path} has images outside of its splits {in_words}: {_some(outside)}. Put them into "
                f"a split, or elsewhere."
            )
        splits: dict[str, Split] = {}
        classes: dict[str, list[str]] = {}
        for split, names in folders.items():
            for name in names:
                splits[split], classes[split] = self._read_split(groups[name], self.path / name)
        classes = {split: names for split, names in classes.items() if names}
        if len(set(map(tuple, classes.values()))) > 1:
            raise ValueError(
                f"load_data: {self.path}: the splits must have the same classes, or labels would not agree; got "
                f"{classes}."
            )
        return given_splits(splits, valid_size, self.path)

    def _read_split(self, files: list[Path], path: Path) -> tuple[Split, list[str]]:
        """Read images, with labels where they are in sub-folders, and return the names of these classes as well.

        Raises:
            ValueError: images lie beside the sub-folders, or differ in shape.
        """
        groups = _grouped(files, path)
        loose = [file.name for file in groups.pop("", [])]
        if loose and groups:
            raise ValueError(
                f"load_data: {path} has images beside its folders {_some(list(groups))}: {_some(loose)}. Put them into "
                f"a folder, or elsewhere."
            )
        if not groups:
            return Split(self._read(files, path)), []
        sizes = torch.tensor([len(members) for members in groups.values()])
        labels = torch.arange(len(groups)).repeat_interleave(sizes)
        return Split(self._read(list(itertools.chain(*groups.values())), path), labels), list(groups)

    def _read(self, files: list[Path], path: Path) -> Tensor:
        """Return images of one shape, uint8 ``(N, channels, height, width)``."""
        first = read_image(files[0], self.resize, self.center_crop)
        images = torch.empty((len(files), *first.shape), dtype=torch.uint8)
        for row, file in enumerate(files):
            pixels = first if row == 0 else read_image(file, self.resize, self.center_crop)
            if pixels.shape != first.shape:
                remedy = "Convert them all to grey or to colour"
                if pixels.shape[1:] != first.shape[1:]:
                    remedy = f"Resize them: {data_option('resize', (32, 32))}, {data_option('center_crop', True)}"
                raise ValueError(
                    f"load_data: all images in {path} must have the same (channels, height, width): "
                    f"{files[0]} has {tuple(first.shape)}, but {file} has {tuple(pixels.shape)}. {remedy}."
                )
            images[row] = pixels
        return images


def _images(path: Path) -> Iterator[Path]:
    """Yield all images below a folder, folder by folder.

    Raises:
        OSError: a folder cannot be read; its message names the folder.
        ValueError: a folder further down is named as a split, or holds itself, or some are splits under longer names.
    """
    # The order of torchvision's ImageFolder, which the fixed permutation needs: by the texts of paths.
    for name, folders, files in sorted(_walk(path)):
        root = Path(name)
        if root != path:
            for folder in folders:
                if folder.lower() in SPLIT_NAMES:
                    raise ValueError(
                        f"load_data: {root / folder} is named as a split and would be mixed with the others: load "
                        f"{root} where it holds the splits, or give the folder another name."
                    )
            _refuse_splits(root, folders)
        for file in sorted(files):
            if not file.startswith(".") and is_image(root / file):
                yield root / file


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what :func:`os.walk` does, links followed, without hidden folders.

    Raises:
        OSError: a folder cannot be read; its message names the folder.
        ValueError: a folder is a link to a folder that holds it.
    """

    def fail(error: OSError) -> None:
        raise error

    # Without `onerror`, os.walk would leave out what it cannot read.
    for name, folders, files in os.walk(path, onerror=fail, followlinks=True):
        root = Path(name)
        folders[:] = [folder for folder in folders if not folder.startswith(".") and folder not in HIDDEN]
        for folder in folders:
            if root.resolve().is_relative_to((root / folder).resolve()):
                raise ValueError(f"load_data: {root / folder} is a link to a folder that holds it: remove it.")
        yield name, list(folders), files


def _grouped(files: Iterable[Path], path: Path) -> dict[str, list[Path]]:
    """Return files by the sub-folder of a folder that they are in, in the order of names; "" is the folder itself."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        *folders, _ = file.relative_to(path).parts
        groups[folders[0] if folders else ""].append(file)
    return dict(sorted(groups.items()))


def _refuse_splits(path: Path, names: Iterable[str]) -> None:
    """Raise a ValueError where sub-folders are different splits under longer names.

    A single one is a class, as ``bullet train``.
    """
    splits = {name: SPLIT_NAMES[word] for name in sorted(names) if (word := _split_word(name)) is not None}
    if len(set(splits.values())) > 1:
        raise ValueError(
            f"load_data: {path}: {_some(list(splits))} are named as splits and would be mixed: name them train, valid "
            f"and test, or give them other names where they are classes."
        )


def _split_word(name: str) -> str | None:
    """Return the word for a split in a folder's name, None where there is none.

    >>> [_split_word(name) for name in ("trainA", "val2017", "TestSet", "contest")]
    ['train', 'val', 'test', None]
    """
    word = SPLIT_WORD.search(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return None if word is None else word[1]


def _some(names: list[str]) -> str:
    """Return names, of many the first three.

    >>> _some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
