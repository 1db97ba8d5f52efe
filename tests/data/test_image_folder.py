"""A user's folder of image files."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataCorruptError, DataNotFoundError, is_available, load_data


def write(folder, images):
    folder.mkdir(parents=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def firsts(split):
    """Which of the fixture's images these are."""
    return (split.flatten(1)[:, 0] * 255).round().int().tolist()


def test_grey_files_of_two_classes_become_one_channel_with_labels(images, tmp_path):
    write(tmp_path / "faces/cats", images[:20])
    write(tmp_path / "faces/dogs", images[20:])
    assert is_available(tmp_path / "faces")
    data = load_data(tmp_path / "faces")
    assert (len(data.train), len(data.valid), len(data.test), data.x_shape) == (32, 4, 4, (1, 5, 4))
    every = firsts(data.train) + firsts(data.valid) + firsts(data.test)
    assert sorted(every) == list(range(40))
    assert torch.equal(data.train, torch.from_numpy(images)[firsts(data.train)][:, None] / 255)
    labels = torch.cat([data.train_labels, data.valid_labels, data.test_labels])
    assert labels.tolist() == [int(number >= 20) for number in every]


def test_colour_comes_channels_first(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 5, 4, 3), dtype=np.uint8)
    write(tmp_path / "c/all", pixels)
    data = load_data(tmp_path / "c", binarization="stochastic")
    expected = {image.transpose(2, 0, 1).tobytes() for image in pixels}
    assert data.x_shape == (3, 5, 4)
    assert {image.numpy().tobytes() for image in data.train} < expected


@pytest.mark.parametrize("with_valid", [True, False])
def test_folders_named_as_splits_are_the_splits(images, tmp_path, with_valid):
    write(tmp_path / "s/train/a", images[:20])
    write(tmp_path / "s/test/a", images[30:])
    if with_valid:
        write(tmp_path / "s/valid/a", images[20:30])
    data = load_data(tmp_path / "s")
    assert firsts(data.test) == list(range(30, 40))
    if with_valid:
        assert firsts(data.train) == list(range(20))
        assert firsts(data.valid) == list(range(20, 30))
    else:
        assert (len(data.train), len(data.valid)) == (18, 2)
        assert sorted(firsts(data.train) + firsts(data.valid)) == list(range(20))


def test_splits_with_different_classes_are_refused(images, tmp_path):
    write(tmp_path / "s/train/a", images[:20])
    write(tmp_path / "s/test/b", images[20:])
    with pytest.raises(
        ValueError, match=r"the splits must have the same classes, .* got \{'train': \['a'\], 'test': \['b'\]"
    ):
        load_data(tmp_path / "s")


def test_images_of_different_sizes_are_refused_by_name(images, tmp_path):
    write(tmp_path / "f/a", [*images[:12], images[0, :4]])
    with pytest.raises(ValueError, match=r"a/000\.png has \(1, 5, 4\), but .*a/012\.png has \(1, 4, 4\)\. Resize"):
        load_data(tmp_path / "f")


def test_a_colour_image_among_grey_ones_is_refused(images, tmp_path):
    write(tmp_path / "f/a", [*images[:12], np.stack([images[0]] * 3, axis=-1)])
    with pytest.raises(ValueError, match=r"has \(1, 5, 4\), but .*012\.png has \(3, 5, 4\)"):
        load_data(tmp_path / "f")


@pytest.mark.parametrize("size", [0, 20, 60])
def test_a_truncated_image_is_named(images, tmp_path, size):
    write(tmp_path / "f/a", images[:12])
    path = tmp_path / "f/a/007.png"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataCorruptError, match=rf"007\.png \({size} bytes\) is not a whole image file"):
        load_data(tmp_path / "f")


def test_sixteen_bits_are_refused_instead_of_clipped(images, tmp_path):
    write(tmp_path / "f/a", images[:12].astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"000\.png has more than 8 bits a channel \(mode I;16\): convert it to 8"):
        load_data(tmp_path / "f")


def test_images_without_a_folder_around_them_are_not_found(images, tmp_path):
    write(tmp_path / "f", images)
    with pytest.raises(DataNotFoundError, match=r"no images found in .*/f: each class needs a folder of its own"):
        load_data(tmp_path / "f")
    (tmp_path / "empty/a").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match="no images found in"):
        load_data(tmp_path / "empty")


def test_too_few_images_are_refused(images, tmp_path):
    write(tmp_path / "f/a", images[:9])
    with pytest.raises(ValueError, match="holds 9 images, too few to split 80/10/10"):
        load_data(tmp_path / "f")
