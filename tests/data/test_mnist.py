"""MNIST and Fashion-MNIST: the real files, and small ones that a test may damage."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from pyro_vae.data import DATASETS, DataCorruptError, DataNotFoundError, is_available, load_data
from pyro_vae.data.known_file import KnownFile

FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
CONTENT_HASHES = {
    "mnist": "3414bdc2e268170cf8105a2a47fa3cd4119f1f740e4297f3e8d43b074334f09e",
    "fashion-mnist": "beb303b98b763be177e5dd83e616b7c428788972d261c4404fe2e6d3e1bb7950",
}


def idx(array):
    """A uint8 array in LeCun's format: magic number, sizes, bytes."""
    header = [0x800 + array.ndim, *array.shape]
    return b"".join(number.to_bytes(4, "big") for number in header) + array.tobytes()


@pytest.fixture
def small(data_root, monkeypatch):
    """Twelve training and four test images in place of "mnist", with honest hashes."""
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        np.arange(12, dtype=np.uint8) % 10,
        random.integers(0, 256, (4, 28, 28), dtype=np.uint8),
        np.arange(4, dtype=np.uint8),
    ]
    (data_root / "MNIST/raw").mkdir(parents=True)
    files = []
    for real, array in zip(DATASETS["mnist"].files, arrays, strict=True):
        content = idx(array)
        (data_root / real.path).write_bytes(content)
        files.append(KnownFile(real.path, len(content), "md5", hashlib.md5(content).hexdigest()))
    source = dataclasses.replace(DATASETS["mnist"], files=tuple(files), default_valid_size=3)
    monkeypatch.setitem(DATASETS, "mnist", source)
    return arrays


def test_the_last_training_images_are_the_validation_split(small):
    data = load_data("mnist")
    images, labels, test_images, test_labels = map(torch.from_numpy, small)
    assert torch.equal(data.train, images[:9, None])
    assert torch.equal(data.train_labels, labels[:9].long())
    assert torch.equal(data.valid_labels, labels[9:].long())
    assert torch.equal(data.test_labels, test_labels.long())
    grey = load_data("mnist", binarization="none", valid_size=2)
    assert torch.equal(grey.train, images[:10, None] / 255)
    assert torch.equal(grey.valid, images[10:, None] / 255)
    assert torch.equal(grey.test, test_images[:, None] / 255)


def test_no_validation_image_and_too_many(small):
    data = load_data("mnist", valid_size=0)
    assert (data.train.shape, data.valid.shape) == ((12, 1, 28, 28), (0, 1, 28, 28))
    assert data.valid_labels.shape == (0,)
    for valid_size in (-1, 12):
        with pytest.raises(ValueError, match=f"0 and 11, .*got {valid_size}"):
            load_data("mnist", valid_size=valid_size)


@pytest.mark.parametrize("number", range(4))
def test_a_truncated_file_is_named_with_both_sizes_and_hashes_and_the_fix(small, data_root, number):
    file = DATASETS["mnist"].files[number]
    path = data_root / file.path
    content = path.read_bytes()[:-1]
    path.write_bytes(content)
    assert not is_available("mnist")
    found = f"{file.size - 1} bytes with md5 {hashlib.md5(content).hexdigest()}"
    with pytest.raises(DataCorruptError, match=f"{path} is truncated .*{file.digest}; .*{found}") as error:
        load_data("mnist")
    assert isinstance(error.value, ValueError)
    assert f"expected {file.size} bytes" in str(error.value)


def test_a_single_altered_pixel_is_found(small, data_root):
    path = data_root / DATASETS["mnist"].files[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert is_available("mnist")
    with pytest.raises(DataCorruptError, match="not the file it should be"):
        load_data("mnist")


def test_a_missing_file_is_named_alone(small, data_root):
    path = data_root / DATASETS["mnist"].files[3].path
    path.unlink()
    assert not is_available("mnist")
    with pytest.raises(DataNotFoundError, match=rf"download=False .*: {path}\."):
        load_data("mnist", download=False)


def test_files_that_old_torchvisions_left_behind_are_not_read(small, data_root):
    (data_root / "MNIST/processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5)), data_root / "MNIST/processed" / name)
    assert torch.equal(load_data("mnist", valid_size=0).train[:, 0], torch.from_numpy(small[0]))


@pytest.mark.full_data
@pytest.mark.parametrize("name", list(FOLDERS))
def test_the_full_files_are_read_as_they_are(name, data_root):
    assert is_available(name)
    data = load_data(name, download=False)
    raw = np.fromfile(data_root / FOLDERS[name] / "train-images-idx3-ubyte", dtype=np.uint8)[16:]
    raw = torch.from_numpy(raw).view(60000, 1, 28, 28)
    assert torch.equal(data.train, raw[:50000])
    assert (data.valid.shape, data.test.shape) == ((10000, 1, 28, 28), (10000, 1, 28, 28))
    # One draw with the last 10000 images as means: a standard normal, which stays below 5.
    p = raw[50000:].double() / 255
    assert ((data.valid.double() - p).sum() / (p * (1 - p)).sum().sqrt()).abs() < 5
    assert (data.valid[p == 1] == 1).all()
    assert (data.valid[p == 0] == 0).all()
    assert torch.bincount(data.test_labels).sum() == 10000
    assert data.content_hash == CONTENT_HASHES[name]


@pytest.mark.full_data
def test_the_labels_of_full_mnist_are_the_known_ones():
    # The first training digits, as in every picture of MNIST, and the known counts of the test set.
    data = load_data("mnist", download=False, binarization="none")
    assert data.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert torch.bincount(data.test_labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    # The well-known mean intensity of the 60000 images, to its four printed digits.
    mean = (data.train.double().sum() + data.valid.double().sum()) / (60000 * 784)
    assert mean == pytest.approx(0.1307, abs=5e-5)
