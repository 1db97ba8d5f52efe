"""A user's folder of image files."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataCorruptError, DataNotFoundError, is_available, load_again, load_data


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
    with pytest.raises(ValueError, match=r"same classes.*'test': \['b'\]"):
        load_data(tmp_path / "s")


def test_images_of_different_sizes_are_refused_by_name(images, tmp_path):
    write(tmp_path / "f/a", [*images[:12], images[0, :4]])
    with pytest.raises(ValueError, match=r"012\.png has \(1, 4, 4\)"):
        load_data(tmp_path / "f")


def test_a_colour_image_among_grey_ones_is_refused(images, tmp_path):
    write(tmp_path / "f/a", [*images[:12], np.stack([images[0]] * 3, axis=-1)])
    with pytest.raises(ValueError, match=r"012\.png has \(3, 5, 4\)"):
        load_data(tmp_path / "f")


@pytest.mark.parametrize("size", [0, 20, 60])
def test_a_truncated_image_is_named(images, tmp_path, size):
    write(tmp_path / "f/a", images[:12])
    path = tmp_path / "f/a/007.png"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataCorruptError, match=rf"007\.png \({size} bytes\) is not"):
        load_data(tmp_path / "f")


def test_sixteen_bits_are_refused_instead_of_clipped(images, tmp_path):
    write(tmp_path / "f/a", images[:12].astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"\(mode I;16\): convert it"):
        load_data(tmp_path / "f")


def test_images_without_a_folder_around_them_are_not_found(images, tmp_path):
    write(tmp_path / "f", images)
    with pytest.raises(DataNotFoundError, match=r"no images found in .*/f: each"):
        load_data(tmp_path / "f")
    (tmp_path / "empty/a").mkdir(parents=True)
    with pytest.raises(DataNotFoundError, match="no images found in"):
        load_data(tmp_path / "empty")


def test_too_few_images_are_refused(images, tmp_path):
    write(tmp_path / "f/a", images[:9])
    with pytest.raises(ValueError, match="9 data, too few"):
        load_data(tmp_path / "f")


# Splits on the disk

NAMES = {
    "train": ["train", "Train", "TRAINING"],
    "valid": ["valid", "val", "Validation", "DEV"],
    "test": ["test", "Test", "testing"],
}


@pytest.mark.parametrize("train", NAMES["train"])
@pytest.mark.parametrize("valid", [*NAMES["valid"], None])
@pytest.mark.parametrize("test", [*NAMES["test"], None])
@pytest.mark.parametrize("classes", [True, False])
def test_a_split_on_the_disk_is_kept(images, tmp_path, train, valid, test, classes):
    """Where a folder is missing, its images are cut off the training images, never taken from another split."""
    parts = {train: range(20), valid: range(20, 30), test: range(30, 40)}
    for name, rows in parts.items():
        if name is None:
            continue
        for rest in (0, 1) if classes else (None,):
            those = [images[row] for row in rows if rest is None or row % 2 == rest]
            write(tmp_path / "s" / name / ("" if rest is None else f"class{rest}"), those)
    data = load_data(tmp_path / "s")
    found = {name: firsts(getattr(data, name)) for name in ("train", "valid", "test")}
    assert valid is None or sorted(found["valid"]) == list(range(20, 30))
    assert test is None or sorted(found["test"]) == list(range(30, 40))
    rest = [row for name, rows in found.items() for row in rows if row < 20]
    assert sorted(rest) == list(range(20))
    assert set(found["train"]) <= set(range(20))
    assert len(found["test"]) == (2 if test is None else 10)
    assert len(found["valid"]) == (2 if valid is None else 10)
    for name, rows in found.items():
        labels = getattr(data, f"{name}_labels")
        assert (labels.tolist() == [row % 2 for row in rows]) if classes else labels is None


def test_one_split_may_have_classes_and_another_none(images, tmp_path):
    write(tmp_path / "s/train/a", images[:20])
    write(tmp_path / "s/test", images[20:])
    data = load_data(tmp_path / "s", valid_size=0)
    assert firsts(data.test) == list(range(20, 40))
    assert data.test_labels is None
    assert data.train_labels.tolist() == [0] * 20


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["train", "."], r"splits train: 100\.png, .* more"),
        (["train", "test", "cats"], r"splits train, test: cats\."),
        (["train", "Train", "test"], r"train images: Train, train\."),
        (["train", "val", "valid"], r"valid images: val, valid\."),
        (["test", "val"], "val, test, but none of training"),
        (["a", "b", "."], r"folders a, b: 200\.png, .* more"),
        (["train/a", "train", "test/a"], r"/train has .* a: 100\.png"),
        (["data/train/a", "data/test/a"], r"data/t\w+ is named.*/data where"),
        (["images/train", "images/val", "more"], r"images/\w+ is named as a split"),
        (["cats/train", "cats/test", "dogs/train", "dogs/test"], r"cats/\w+ is named as a split"),
    ],
)
def test_a_layout_that_is_not_understood_is_refused_by_name(images, tmp_path, places, message):
    for number, place in enumerate(places):
        folder = tmp_path / "s" / place
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(10):
            Image.fromarray(images[row]).save(folder / f"{number}{row:02}.png")
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "s")


@pytest.mark.parametrize("inside", ["", "deep/er"])
@pytest.mark.parametrize(
    "names",
    [
        ["train_images", "test_images"], ["trainA", "testA", "trainB"], ["train2017", "val2017"],
        ["TrainSet", "TestSet"], ["training-set", "my dev", "cats"], ["mnist_TEST", "mnist_validation"],
        ["IMG_TRAIN", "testdata"],
    ],
)  # fmt: skip
def test_folders_that_are_splits_under_longer_names_are_not_taken_for_classes(images, tmp_path, names, inside):
    """Their images would be mixed, and the user's test images trained on."""
    for name in names:
        write(tmp_path / "s" / inside / name, images[:20])
    with pytest.raises(ValueError, match="named as splits"):
        load_data(tmp_path / "s")


def test_classes_of_which_one_has_a_split_in_its_name_are_classes(images, tmp_path):
    for number, name in enumerate(["bullet train", "training wheels", "contest", "device", "valley"]):
        write(tmp_path / "s" / name, images[8 * number : 8 * number + 8])
    assert set(load_data(tmp_path / "s").train_labels.tolist()) == set(range(5))


def test_a_split_without_images_is_refused(images, tmp_path):
    write(tmp_path / "s/train", images)
    (tmp_path / "s/Test/cats").mkdir(parents=True)
    (tmp_path / "s/Test/cats/readme.txt").write_text("moved")
    with pytest.raises(ValueError, match="Test holds no images"):
        load_data(tmp_path / "s")


def test_hidden_folders_and_other_files_are_passed_over_and_deeper_ones_are_not(images, tmp_path):
    write(tmp_path / "f/a/more", images[:20])
    write(tmp_path / "f/b", images[20:])
    write(tmp_path / "f/notes", [])
    for hidden in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "a/.ipynb_checkpoints", "a/more/__MACOSX/deep"):
        write(tmp_path / "f" / hidden, images[:7])
    for name in ("._000.png", "Thumbs.db", "labels.csv", ".DS_Store"):
        (tmp_path / "f/a" / name).write_bytes(b"no image")
    (tmp_path / "f/readme.txt").write_text("no image")
    data = load_data(tmp_path / "f")
    assert sorted(firsts(data.train) + firsts(data.valid) + firsts(data.test)) == list(range(40))
    labels = torch.cat([data.train_labels, data.valid_labels, data.test_labels])
    assert labels.tolist() == [int(row >= 20) for row in firsts(data.train) + firsts(data.valid) + firsts(data.test)]


@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_an_image_without_its_suffix_is_an_image(images, tmp_path, layout):
    write(tmp_path / "f/train" if layout == "splits" else tmp_path / "f/a", images[:20])
    for file in list((tmp_path / "f").rglob("*.png"))[::2]:
        file.rename(file.with_suffix(""))
    data = load_data(tmp_path / "f")
    assert sorted(firsts(data.train) + firsts(data.valid) + firsts(data.test)) == list(range(20))


def test_a_folder_that_holds_itself_is_refused(images, tmp_path):
    write(tmp_path / "f/a", images[:20])
    (tmp_path / "f/a/again").symlink_to(tmp_path / "f", target_is_directory=True)
    with pytest.raises(ValueError, match="a/again is a link"):
        load_data(tmp_path / "f")


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(images, tmp_path, monkeypatch):
    write(tmp_path / "f/a", images[:20])
    write(tmp_path / "f/b/locked", images[20:])
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*f/b/locked"):
        load_data(tmp_path / "f")


def test_a_link_to_nothing_is_named(images, tmp_path):
    write(tmp_path / "f/a", images[:20])
    (tmp_path / "f/a/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataCorruptError, match=r"gone\.png is no file"):
        load_data(tmp_path / "f")


def test_test_images_that_are_trained_on_are_counted_in_a_warning(images, tmp_path):
    write(tmp_path / "s/train", images[:20])
    write(tmp_path / "s/val", images[20:30])
    write(tmp_path / "s/test", [*images[17:20], *images[30:]])
    with pytest.warns(UserWarning, match="3 of 13 test data") as said:
        load_data(tmp_path / "s")
    assert len(said) == 1
    write(tmp_path / "c/all", [images[row % 2] for row in range(40)])
    with pytest.warns(UserWarning, match="4 of 4 test .* 4 of 4 valid"):
        load_data(tmp_path / "c")


def halved(pixels):
    """Pixels at half the height and width, each the mean of what it covers with weights 1 3 3 1, in float64."""
    for axis in (0, 1):
        size = pixels.shape[axis]
        centers, places = 2 * np.arange(size // 2) + 1.0, np.arange(size) + 0.5
        weights = np.maximum(0, 1 - np.abs(centers[:, None] - places) / 2)
        weights /= weights.sum(1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, axes=(1, axis)), 0, axis)
    return pixels


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_resized_by_the_mean_of_what_a_pixel_covers(tmp_path, channels):
    """Pillow rounds after each of two passes: the mean is within one grey level."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 8, *channels), dtype=np.uint8)
    write(tmp_path / "train", pixels)
    write(tmp_path / "valid", pixels[:1] // 2)
    write(tmp_path / "test", pixels[:1] // 3)
    data = load_data(tmp_path, resize=(6, 4))
    expected = np.stack([halved(image.astype(np.float64)) for image in pixels]).reshape(10, 6, 4, -1)
    assert data.x_shape == (len(channels) * 2 + 1, 6, 4)
    torch.testing.assert_close(
        data.train * 255, torch.from_numpy(expected.transpose(0, 3, 1, 2)).float(), rtol=0, atol=1.01
    )
    assert data.describe()["options"] == {"resize": [6, 4]}


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_the_middle_of_the_right_proportions_is_cut_out(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (12, *shape), dtype=np.uint8)
    write(tmp_path / "f" / "a", pixels)
    data = load_data(tmp_path / "f", resize=(12, 12), center_crop=True)
    top, left = (shape[0] - 12) // 2, (shape[1] - 12) // 2
    middle = {image[top : top + 12, left : left + 12].tobytes() for image in pixels}
    found = torch.cat([data.train, data.valid, data.test]) * 255
    assert {image.round().to(torch.uint8).numpy().tobytes() for image in found} == middle
    wide = load_data(tmp_path / "f", resize=(6, 3), center_crop=True)
    assert wide.x_shape == (1, 6, 3)


def test_images_of_several_sizes_name_the_fix(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (10 + number, 20), dtype=np.uint8) for number in range(12)]
    write(tmp_path / "f" / "a", images)
    with pytest.raises(ValueError, match=r"resize=\(32, 32\), center_crop"):
        load_data(tmp_path / "f")
    data = load_data(tmp_path / "f", resize=[8, 8], center_crop=True)
    assert data.train.shape == (10, 1, 8, 8)
    hashes = {data.content_hash, load_data(tmp_path / "f", resize=(8, 8)).content_hash}
    hashes.add(load_data(tmp_path / "f", resize=(8, 7)).content_hash)
    assert len(hashes) == 3
    assert load_again(data.describe()).content_hash == data.content_hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 32}, "a height and a width.*; got 32"),
        ({"resize": (32,)}, "a height and a width"),
        ({"resize": (0, 32)}, "a height and a width"),
        ({"resize": (32.0, 32)}, "a height and a width"),
        ({"resize": (True, 32)}, "a height and a width"),
        ({"resize": (5000, 5000)}, "from 1 to 4096"),
        ({"center_crop": True}, "must have a size to crop"),
        ({"resize": (4, 4), "center_crop": 1}, "must be True or False"),
        ({"resise": (4, 4)}, "Did you mean 'resize'"),
    ],
)
def test_sizes_that_are_none_are_refused(images, tmp_path, options, message):
    write(tmp_path / "f" / "a", images)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "f", **options)


def test_grey_and_colour_do_not_mix(images, tmp_path):
    write(tmp_path / "f" / "a", [*images, np.zeros((5, 4, 3), dtype=np.uint8)])
    with pytest.raises(ValueError, match="all to grey or to colour"):
        load_data(tmp_path / "f")
