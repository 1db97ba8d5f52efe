"""CIFAR-10, read from small files in its format with honest hashes."""

import hashlib
import pickle

import numpy as np
import pytest
import torch

from pyro_vae.data import DATASETS, DataCorruptError, DataNotFoundError, is_available, load_data
from pyro_vae.data.known_file import KnownFile

ROWS = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (6 * ROWS, 3072), dtype=np.uint8)
LABELS = (np.arange(6 * ROWS) * 7 % 10).tolist()


def write(root, monkeypatch, contents):
    """Write the six files, with the hashes that they have."""
    files = []
    for real, content in zip(type(DATASETS["cifar-10"]).files, contents, strict=True):
        (root / real.path).parent.mkdir(exist_ok=True)
        (root / real.path).write_bytes(content)
        files.append(KnownFile(real.path, None, "md5", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(DATASETS["cifar-10"], "files", tuple(files), raising=False)


def pickled(number):
    """A batch as Python 2 wrote it: NumPy's old module, texts as bytes."""
    rows = slice(number * ROWS, (number + 1) * ROWS)
    content = pickle.dumps({"data": IMAGES[rows], "labels": LABELS[rows]}, protocol=2)
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_the_batches_are_read_in_order(data_root, monkeypatch):
    assert not is_available("cifar-10")
    write(data_root, monkeypatch, [pickled(number) for number in range(6)])
    assert is_available("cifar-10")
    data = load_data("cifar-10", labels=True, valid_size=3, download=False)
    images = torch.from_numpy(IMAGES).view(-1, 3, 32, 32) / 255
    for split, rows in ((data.train, slice(0, 17)), (data.valid, slice(17, 20)), (data.test, slice(20, 24))):
        assert torch.equal(split[0], images[rows])
        assert split[1].tolist() == LABELS[rows]
    assert len(load_data("cifar-10").valid) == 2


def test_an_altered_file_is_found_before_it_is_read(data_root, monkeypatch):
    write(data_root, monkeypatch, [pickled(number) for number in range(6)])
    path = data_root / DATASETS["cifar-10"].files[2].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataCorruptError, match="data_batch_3 is not the file"):
        load_data("cifar-10")


class Mine:
    """Unpickling this would leave a trace."""

    exploded = False

    def __reduce__(self):
        return (setattr, (Mine, "exploded", True))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Mine()), pickle.dumps({"data": Mine()}), b"", b"text", pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": IMAGES[:2], "labels": [1]}),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_and_runs_no_code(content, data_root, monkeypatch):
    write(data_root, monkeypatch, [content] * 6)
    with pytest.raises(DataCorruptError, match="as a batch of CIFAR-10"):
        load_data("cifar-10")
    assert not Mine.exploded


def test_a_failed_download_says_what_is_installed(data_root):
    with pytest.raises(DataNotFoundError, match=r"download failed .*photo-patches"):
        load_data("cifar-10")
    assert list(data_root.iterdir()) == []
