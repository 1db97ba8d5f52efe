"""Frey faces: the real file, and small ones that a test may damage."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from pyro_vae.data import DataCorruptError, DataNotFoundError, frey_faces, is_available, load_data


@pytest.fixture
def small(data_root, monkeypatch):
    """1965 other images in the file's format, with an honest hash; returns them as (1965, 28, 20)."""
    pixels = np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    (data_root / "FreyFaces").mkdir()
    savemat(data_root / "FreyFaces/frey_rawface.mat", {"ff": pixels.reshape(1965, 560).T})
    monkeypatch.setattr(frey_faces, "_SHA256", hashlib.sha256(pixels.tobytes()).hexdigest())
    return pixels


def test_the_columns_become_grey_images_in_a_fixed_split(small):
    data = load_data("frey-faces")
    assert data.binarization == "none"
    assert [tuple(split.shape) for split in (data.train, data.valid, data.test)] == [
        (1565, 1, 28, 20),
        (200, 1, 28, 20),
        (200, 1, 28, 20),
    ]
    found = torch.cat([data.train, data.valid, data.test]).mul(255).round().to(torch.uint8).flatten(1).numpy()
    assert {row.tobytes() for row in found} == {image.tobytes() for image in small}
    assert torch.equal(load_data("frey-faces", valid_size=0, seed=4).test, data.test)
    assert data.train_labels is None


@pytest.mark.parametrize("size", [0, 100, 5000, -100])
def test_a_truncated_file_is_named_with_the_fix(small, data_root, size):
    path = data_root / "FreyFaces/frey_rawface.mat"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataCorruptError, match=r"\(\d+ bytes\) cannot be read"):
        load_data("frey-faces")


def test_other_pixels_are_named_with_both_hashes(small, data_root):
    small[1000, 3, 4] ^= 1
    path = data_root / "FreyFaces/frey_rawface.mat"
    savemat(path, {"ff": small.reshape(1965, 560).T})
    found = hashlib.sha256(small.tobytes()).hexdigest()
    with pytest.raises(DataCorruptError, match=f"{frey_faces._SHA256}; found .*{found}"):
        load_data("frey-faces")


def test_a_file_without_the_matrix_is_corrupt(small, data_root):
    savemat(data_root / "FreyFaces/frey_rawface.mat", {"gg": small[0]})
    with pytest.raises(DataCorruptError, match="a matrix 'ff'"):
        load_data("frey-faces")


def test_a_missing_file_is_named_with_the_hash_of_its_pixels(data_root):
    with pytest.raises(DataNotFoundError, match=f"Missing: {data_root}.*{frey_faces._SHA256}"):
        load_data("frey-faces")


@pytest.mark.full_data
def test_the_full_file_is_read_as_it_is(data_root):
    assert is_available("frey-faces")
    data = load_data("frey-faces")
    faces = loadmat(data_root / "FreyFaces/frey_rawface.mat")["ff"].T
    found = torch.cat([data.train, data.valid, data.test]).mul(255).round().to(torch.uint8).flatten(1).numpy()
    assert np.array_equal(found[np.lexsort(found.T)], faces[np.lexsort(faces.T)])
    assert data.content_hash == CONTENT_HASH


CONTENT_HASH = "99fe4de478bc0a8b461a9df7bc4148bed442c2eb2bd063c5427d4a1cc9ee7abb"
