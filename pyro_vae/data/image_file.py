"""Read one image file as bytes, or raise an error that says why its pixels cannot be read unchanged."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataCorruptError
from pyro_vae.runtime.user_code import told

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".bmp", ".dib", ".tif",
    ".tiff", ".webp", ".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".psd", ".exr", ".dds",
)  # fmt: skip
"""Suffixes of image files, those of refused formats included. Other files are recognised by their first bytes."""

STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*")
"""First bytes of PNG, JPEG, GIF and TIFF files, by which a file without a suffix is recognised."""

FORMATS = ("PNG", "JPEG", "MPO", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
"""Pillow's names of the formats that are read. For other formats it was not checked how Pillow converts pixels."""

TARGETS = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
"""Pillow's modes (https://pillow.readthedocs.io, "Modes") of at most a byte a channel, and what they become."""

DEEP_MODES = ("I", "F")
"""First letters of the modes with more than a byte a channel."""

DEEP = re.compile(r";(12|16|32)")
"""The bits a channel in Pillow's name of how a file stores pixels. Pillow may keep only 8 of them."""


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix or its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8).startswith(STARTS)


def read_image(path: Path, size: tuple[int, int] | None = None, center_crop: bool = False) -> Tensor:
    """Return an image file as uint8 ``(channels, height, width)``, turned as its EXIF orientation says.

    Black-and-white and grey files give one channel, colour and palettes three. An opaque alpha channel is left out.

    Args:
        path: the file.
        size: height and width to which the image is resized, by Pillow's bilinear filter, which averages over all
            pixels that it makes one of; None leaves the image as it is.
        center_crop: whether only the largest region in the image's middle is resized that has the proportions of
            ``size``; else the image's own proportions change.

    Raises:
        DataCorruptError: the file is damaged, or declares more pixels than any image has.
        ValueError: it holds more than a byte a channel, transparent pixels, several frames, or colours other than red,
            green and blue.
    """
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataCorruptError(f"load_data: {path} is no file: it is a link to nothing, or a device. Delete it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                _refuse_others(opened)
                image = ImageOps.exif_transpose(opened)
                if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                    raise _RefusedError("has transparent pixels: put it on a background")
                # By way of RGBA, since Pillow would warn of a palette with transparency.
                image = image.convert("RGBA") if image.mode in ("P", "PA") else image
                image = image.convert(TARGETS[image.mode])
                pixels = np.array(image if size is None else _resized(image, size, center_crop))
    except PermissionError:  # no damage; its message names the file
        raise
    except _RefusedError as error:
        raise ValueError(f"load_data: {path} {error}.") from None
    except Exception as error:  # On damage Pillow raises whatever a format's parser runs into.
        raise DataCorruptError(
            f"load_data: {path} ({path.stat().st_size} bytes) is not a whole image file ({told(error)}). Replace or "
            "delete it."
        ) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(2, 0)


def _resized(image: Any, size: tuple[int, int], center_crop: bool) -> Any:
    """Return an image of Pillow's, resized as `read_image` says."""
    from PIL import Image

    height, width = size
    # Pillow takes parts of pixels, so that the region's middle is that of the image.
    across, down = image.width, image.height
    if center_crop:
        across, down = min(across, down * width / height), min(down, across * height / width)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down))


class _RefusedError(Exception):
    """Says why an undamaged image cannot be used."""


def _refuse_others(image: Any) -> None:
    """Refuse an opened image whose pixels are not 8 bits a channel of black-and-white, grey or red, green and blue."""
    if image.format not in FORMATS:
        raise _RefusedError(f"is a {image.format} file: convert it to PNG")
    # The second picture of a camera's MPO file is a preview, or the view of the other eye.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _RefusedError(f"holds {image.n_frames} frames: write each into a file of its own")
    depth = _deep(image)
    if depth is not None:
        raise _RefusedError(f"has more than 8 bits a channel (mode {depth}): convert it to 8")
    if image.mode not in TARGETS:
        raise _RefusedError(f"has colours of mode {image.mode}: convert it to RGB")


def _deep(image: Any) -> str | None:
    """Return how the file stores pixels of more than a byte a channel; None if it has none."""
    if image.mode.startswith(DEEP_MODES):
        return str(image.mode)
    # In a bitmap "BGR;16" is 16 bits a pixel.
    for tile in image.tile if image.format not in ("BMP", "DIB") else ():
        decoder, arguments = tile[0], tile[3]
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        if decoder.startswith("ppm") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return f"{image.mode} up to {arguments[-1]}"
        for argument in arguments:
            if isinstance(argument, str) and DEEP.search(argument):
                return argument
    return None
