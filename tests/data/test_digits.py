"""The digits of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_vae.data import DataCorruptError, DataNotFoundError, digits, is_available, load_data
from pyro_vae.data.source import default_order


def test_the_digits_are_those_of_scikit_learn():
    theirs = load_digits()
    order = default_order(1797)
    data = load_data("digits", binarization="none", labels=True)
    assert is_available("digits")
    assert [len(split[0]) for split in (data.train, data.valid, data.test)] == [1439, 179, 179]
    images = torch.cat([data.train[0], data.valid[0], data.test[0]])
    assert (images.shape, images.dtype) == ((1797, 1, 8, 8), torch.float32)
    assert torch.equal(images[:, 0] * 16, torch.from_numpy(theirs.images).float()[order])
    assert torch.equal(torch.cat([data.train[1], data.valid[1], data.test[1]]), torch.from_numpy(theirs.target)[order])
    assert len(images.unique()) == 17


def test_a_likelihood_of_seventeen_levels_holds_them():
    from pyro_vae.distributions.grey_levels import GreyLevels

    assert GreyLevels(17).check(load_data("digits", binarization="none").train).all()


def test_the_test_images_are_the_same_for_each_validation_set():
    test = load_data("digits", binarization="none").test
    assert torch.equal(load_data("digits", binarization="none", valid_size=0).test, test)


@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b\x08", "altered"])
def test_a_file_that_is_not_the_packages_is_refused(content, monkeypatch, tmp_path):
    path = tmp_path / "digits.csv.gz"
    if content == "altered":
        import gzip

        text = "\n".join(",".join(map(str, row)) for row in np.zeros((1797, 65), dtype=int))
        path.write_bytes(gzip.compress(text.encode()))
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(digits, "_CSV", path)
    with pytest.raises(DataNotFoundError if content is None else DataCorruptError, match=r"reinstall scikit-learn"):
        load_data("digits")
