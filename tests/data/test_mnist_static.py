"""Larochelle's fixed binarization: the real files, and small ones that a test may damage."""

import hashlib

import numpy as np
import pytest
import torch

from pyro_vae.data import DATASETS, DataCorruptError, DataNotFoundError, is_available, load_data
from pyro_vae.data.known_file import KnownFile


@pytest.fixture
def small(data_root, monkeypatch):
    """Six, three and two images in the text format, with honest hashes; returns the pixels."""
    (data_root / "BinarizedMNIST").mkdir()
    random = np.random.default_rng(0)
    arrays, files = [], []
    for real, size in zip(DATASETS["mnist-static"].files, (6, 3, 2), strict=True):
        pixels = random.integers(0, 2, (size, 784))
        np.savetxt(data_root / real.path, pixels, fmt="%d")
        content = (data_root / real.path).read_bytes()
        files.append(KnownFile(real.path, len(content), "sha256", hashlib.sha256(content).hexdigest()))
        arrays.append(pixels)
    monkeypatch.setattr(DATASETS["mnist-static"], "files", tuple(files), raising=False)
    return arrays


def test_text_becomes_float_zeros_and_ones_without_labels(small):
    data = load_data("mnist-static")
    assert data.binarization == "static"
    for split, pixels in zip((data.train, data.valid, data.test), small, strict=True):
        assert split.dtype == torch.float32
        assert torch.equal(split, torch.from_numpy(pixels).float().view(-1, 1, 28, 28))
    assert torch.equal(data.observe(data.train), data.train)
    assert data.train_labels is data.valid_labels is data.test_labels is None


def test_the_seed_changes_nothing(small):
    assert torch.equal(load_data("mnist-static", seed=1).test, load_data("mnist-static", binarization="static").test)


@pytest.mark.parametrize("binarization", ["stochastic", "threshold", "none"])
def test_any_other_binarization_is_refused_with_the_way_to_it(small, binarization):
    with pytest.raises(ValueError, match=f"'static'; got '{binarization}'"):
        load_data("mnist-static", binarization=binarization)


@pytest.mark.parametrize("valid_size", [0, 9999])
def test_any_other_split_is_refused(small, valid_size):
    with pytest.raises(ValueError, match=f"10000 .*; got {valid_size}"):
        load_data("mnist-static", valid_size=valid_size)
    assert len(load_data("mnist-static", valid_size=10000).valid) == 3


def test_a_missing_file_is_named_with_its_hash(small, data_root):
    file = DATASETS["mnist-static"].files[2]
    assert is_available("mnist-static")
    (data_root / file.path).unlink()
    assert not is_available("mnist-static")
    with pytest.raises(DataNotFoundError) as error:
        load_data("mnist-static")
    assert f"it is not downloaded. Missing: {data_root / file.path}. Expected:" in str(error.value)
    assert f"{file.path} ({file.size} bytes, sha256 {file.digest})" in str(error.value)


@pytest.mark.parametrize("damage", [lambda text: text[:-2], lambda text: text[:100], lambda text: b"2" + text[1:]])
def test_a_truncated_or_altered_file_is_named(small, data_root, damage):
    file = DATASETS["mnist-static"].files[0]
    content = damage((data_root / file.path).read_bytes())
    (data_root / file.path).write_bytes(content)
    with pytest.raises(DataCorruptError) as error:
        load_data("mnist-static")
    assert f"expected {file.size} bytes with sha256 {file.digest}; found {len(content)} bytes" in str(error.value)
    assert str(data_root / file.path) in str(error.value)


@pytest.mark.full_data
def test_the_full_files_are_read_as_numpy_reads_text(data_root):
    assert is_available("mnist-static")
    data = load_data("mnist-static")
    assert [tuple(split.shape) for split in (data.train, data.valid, data.test)] == [
        (50000, 1, 28, 28),
        (10000, 1, 28, 28),
        (10000, 1, 28, 28),
    ]
    for split, name in zip((data.train, data.valid, data.test), ("train", "valid", "test"), strict=True):
        text = np.loadtxt(data_root / f"BinarizedMNIST/binarized_mnist_{name}.amat", max_rows=200)
        assert torch.equal(split[:200].flatten(1).double(), torch.from_numpy(text))
        assert ((split == 0) | (split == 1)).all()
        # MNIST's mean intensity is 0.13 in each split; these are other digits, hence only two digits of it.
        assert split.mean().item() == pytest.approx(0.13, abs=0.005)
    assert data.content_hash == CONTENT_HASH


CONTENT_HASH = "9346026a5624fb6bef35f2bdfb9682540d0dc1ac70f5875a24026bdfdb9b3bb6"
