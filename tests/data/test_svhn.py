"""Street View House Numbers, read from small files in its format with honest hashes."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pyro_vae.data import DATASETS, DataCorruptError, DataNotFoundError, is_available, load_data
from pyro_vae.data.known_file import KnownFile

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([1, 9, 10, 10, 2, 3, 4, 5, 6, 7, 8, 10], dtype=np.uint8)


def write(root, monkeypatch, **changes):
    """Write both files, with the hashes that they have."""
    files = []
    for real, rows in zip(type(DATASETS["svhn"]).files, (slice(0, 8), slice(8, 12)), strict=True):
        path = root / real.path
        path.parent.mkdir(exist_ok=True)
        content = {"X": IMAGES[rows].transpose(2, 3, 1, 0), "y": LABELS[rows, None], **changes}
        savemat(path, content)
        files.append(KnownFile(real.path, None, "md5", hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(DATASETS["svhn"], "files", tuple(files), raising=False)


def test_the_images_are_turned_and_ten_is_zero(data_root, monkeypatch):
    assert not is_available("svhn")
    write(data_root, monkeypatch)
    assert is_available("svhn")
    data = load_data("svhn", labels=True, valid_size=3, download=False)
    images, labels = torch.from_numpy(IMAGES) / 255, torch.from_numpy(LABELS).long() % 10
    for split, rows in ((data.train, slice(0, 5)), (data.valid, slice(5, 8)), (data.test, slice(8, 12))):
        assert torch.equal(split[0], images[rows])
        assert torch.equal(split[1], labels[rows])


@pytest.mark.parametrize("changes", [{"X": np.zeros((32, 32, 4))}, {"y": np.zeros((3, 1))}])
def test_other_contents_are_refused(changes, data_root, monkeypatch):
    write(data_root, monkeypatch, **changes)
    with pytest.raises(DataCorruptError, match="images X and labels y"):
        load_data("svhn")


def test_an_altered_file_is_found(data_root, monkeypatch):
    write(data_root, monkeypatch)
    path = data_root / "SVHN/test_32x32.mat"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataCorruptError, match="not the file it should be"):
        load_data("svhn")


def test_a_failed_download_leaves_nothing_behind(data_root):
    with pytest.raises(DataNotFoundError, match=r"SVHN/train_32x32\.mat"):
        load_data("svhn")
    assert list(data_root.iterdir()) == []
