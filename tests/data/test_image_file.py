"""Pixels of image files, written here with known values, and the files that are refused by name."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataCorruptError
from pyro_vae.data.image_file import read_image

GREY = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)

LOSSLESS = ("png", "bmp", "tif", "pgm")

UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}
"""By the EXIF standard's number: what is to be done to the stored pixels."""


def saved(image, path, **options):
    image.save(path, **options)
    return path


def png(colour_type, depth, rows):
    """A PNG file of raw rows, as the standard has it: Pillow writes no 16-bit colours."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, 5, depth, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_grey_is_one_channel(suffix, tmp_path):
    assert torch.equal(read_image(saved(Image.fromarray(GREY), tmp_path / f"x.{suffix}")), torch.from_numpy(GREY[None]))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_colour_is_three(suffix, tmp_path):
    found = read_image(saved(Image.fromarray(COLOUR), tmp_path / f"x.{suffix}"))
    assert torch.equal(found, torch.from_numpy(COLOUR).movedim(2, 0))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "pbm"])
def test_black_and_white_is_grey_of_0_and_255(suffix, tmp_path):
    image = Image.fromarray(GREY).point(lambda value: 255 * (value > 127), mode="1")
    found = read_image(saved(image, tmp_path / f"x.{suffix}"))
    assert torch.equal(found, torch.from_numpy((GREY > 127)[None] * np.uint8(255)))


@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "bmp"])
def test_a_palette_is_three_channels(suffix, tmp_path):
    image = Image.fromarray(GREY % 7).convert("P")
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    found = read_image(saved(image, tmp_path / f"x.{suffix}"))
    assert torch.equal(found, torch.from_numpy(palette[GREY % 7]).movedim(2, 0))


@pytest.mark.parametrize("maximum", [1, 15, 100])
def test_a_portable_grey_map_counts_to_its_own_maximum(maximum, tmp_path):
    values = GREY % (maximum + 1)
    (tmp_path / "x.pgm").write_bytes(f"P5 4 5 {maximum}\n".encode() + values.tobytes())
    found = read_image(tmp_path / "x.pgm")
    assert (found[0].numpy() - values * (255 / maximum)).__abs__().max() <= 0.5


@pytest.mark.parametrize(
    ("mode", "suffix"), [("LA", "png"), ("LA", "tif"), ("RGBA", "png"), ("RGBA", "tif"), ("P", "png")]
)
def test_an_alpha_channel_is_left_out_where_it_is_opaque_and_refused_where_not(mode, suffix, tmp_path):
    base = GREY if mode == "LA" else COLOUR
    expected = torch.from_numpy(base[None] if base.ndim == 2 else base.transpose(2, 0, 1))
    for alpha in (255, 254, 0):
        image = Image.fromarray(base).convert(mode)
        options = {}
        if mode == "P":
            image = Image.fromarray(GREY % 5).convert("P")
            palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
            image.putpalette(palette.tobytes())
            expected = torch.from_numpy(palette[GREY % 5]).movedim(2, 0)
            options["transparency"] = bytes([255, alpha, 255, 255, 255])
        else:
            channel = np.full((5, 4), 255, dtype=np.uint8)
            channel[2, 3] = alpha
            image.putalpha(Image.fromarray(channel))
        path = saved(image, tmp_path / f"x.{suffix}", **options)
        if alpha == 255:
            assert torch.equal(read_image(path), expected)
        else:
            with pytest.raises(ValueError, match=rf"x\.{suffix} has transparent"):
                read_image(path)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_image_stands_as_its_camera_says(orientation, suffix, tmp_path):
    stored = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(stored, tmp_path / f"x.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = np.stack([UPRIGHT[orientation](COLOUR[..., channel]) for channel in range(3)])
    assert torch.equal(read_image(path), torch.from_numpy(np.ascontiguousarray(upright)))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_so_does_a_photograph(orientation, tmp_path):
    """Blocks of 8 x 8 of one grey pass JPEG's compression but for rounding."""
    blocks = np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, 8, 0), 8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(saved(Image.fromarray(blocks), tmp_path / "x.jpg", exif=exif, quality=100))
    expected = torch.from_numpy(np.ascontiguousarray(UPRIGHT[orientation](blocks)))
    assert (found[0].int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_any_colours_are_refused(colour_type, channels, tmp_path):
    rows = np.full((5, 4 * channels), 0xFF12, dtype=">u2")
    (tmp_path / "x.png").write_bytes(png(colour_type, 16, rows))
    with pytest.raises(ValueError, match=r"more than 8 bits .*mode .*16"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.ppm", b"P6 4 5 65535\n" + bytes(120)),
        ("x.ppm", b"P6 4 5 1023\n" + bytes(120)),
        ("x.ppm", b"P3 4 5 65535\n" + b"1 " * 60),
        ("x.pgm", b"P5 4 5 65535\n" + bytes(40)),
        ("x.pfm", b"Pf\n4 5\n-1.0\n" + bytes(80)),
    ],
)
def test_so_are_portable_maps_that_count_further(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} has more than 8 bits"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_so_are_deep_tiffs(mode, tmp_path):
    with pytest.raises(ValueError, match=r"x\.tif has more than 8 bits"):
        read_image(saved(Image.new(mode, (4, 5)), tmp_path / "x.tif"))


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("LAB", "tif"), ("YCbCr", "tif")])
def test_other_colours_are_refused(mode, suffix, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.{suffix} has colours of mode {mode}"):
        read_image(saved(Image.new(mode, (4, 5)), tmp_path / f"x.{suffix}"))


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_several_frames_are_refused(suffix, tmp_path):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    path = saved(frames[0], tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"x\.{suffix} holds 2 frames"):
        read_image(path)


def test_of_a_camera_s_two_pictures_the_first_is_taken(tmp_path):
    frames = [Image.new("L", (8, 8), 40), Image.new("L", (8, 8), 200)]
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:], quality=100)
    assert torch.equal(read_image(tmp_path / "x.jpg"), torch.full((1, 8, 8), 40, dtype=torch.uint8))


@pytest.mark.parametrize("suffix", ["jp2", "tga", "ico"])
def test_formats_that_are_not_known_well_enough_are_refused(suffix, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.{suffix} is a \w+ file"):
        read_image(saved(Image.new("RGB", (16, 16)), tmp_path / f"x.{suffix}"))


@pytest.mark.parametrize(
    "content",
    [
        b"P5 100000 100000 255\n",
        b"P5 12000 12000 255\n",
        b"BM" + struct.pack("<IHHIIiiHH", 0, 0, 0, 54, 40, 60000, 60000, 1, 24) + bytes(24),
    ],
)
def test_a_bomb_is_refused_before_it_goes_off(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataCorruptError, match=r"not a whole .*\(Decompression"):
        read_image(tmp_path / "x.png")
