"""Quadrants of an image that are given, and those that are to be predicted."""

import numpy as np
import pytest
import torch

from pyro_vae.data import load_again, load_data
from pyro_vae.data.conditions import conditions_of
from pyro_vae.data.quadrants import Quadrants

GIVEN = {1: [[0, 0], [1, 0]], 2: [[1, 0], [1, 0]], 3: [[1, 1], [1, 0]]}
"""Which of the four quadrants are given, upper row first: those of Pyro's tutorial."""


@pytest.mark.parametrize("number", GIVEN)
@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 4, 6)])
def test_which_pixels_are_given(number, shape):
    images = torch.rand(5, *shape)
    given = torch.tensor(GIVEN[number]).bool().repeat_interleave(2, 0).repeat_interleave(3, 1)
    quadrants = Quadrants(shape, number)
    x, y = quadrants.split(images)
    assert torch.equal(y, torch.where(given, images, -1.0))
    assert quadrants.x_shape == x.shape[1:] == (shape[0] * 6 * (4 - number),)
    assert sorted(x[0].tolist()) == sorted(images[0, :, ~given].flatten().tolist())
    assert torch.equal(quadrants.complete(x, y), images)
    many = quadrants.complete(x.repeat(7, 1, 1), y)
    assert torch.equal(many, images.expand(7, *images.shape))


def test_an_odd_image_is_cut_below_the_middle():
    missing = Quadrants((1, 5, 5), 3).missing
    assert missing.sum() == 9
    assert missing[2:, 2:].all()


@pytest.mark.parametrize("binarization", ["none", "threshold", "static", "stochastic"])
def test_x_is_binarized_as_the_images_are_and_y_is_grey(binarization):
    plain = load_data("mnist-5k", binarization=binarization)
    grey = load_data("mnist-5k", binarization="none")
    data = load_data("mnist-5k", binarization=binarization, quadrants=1)
    parts = Quadrants((1, 28, 28), 1)
    for split in ("train", "valid", "test"):
        x, y = getattr(data, split)
        assert torch.equal(x, parts.missing_pixels(getattr(plain, split)))
        assert torch.equal(y, parts.given_image(getattr(grey, split)))
    assert (data.x_shape, data.datum, data.labels) == ((588,), ("missing", "given"), False)
    x, y = data.observe(tuple(column[:9] for column in data.train))
    assert x.dtype == y.dtype == torch.float32
    assert binarization == "none" or set(x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(y, data.train[1][:9])
    assert torch.equal(data.train_mean(), parts.missing_pixels(plain.train_mean()))
    assert conditions_of(data) == {"y_shape": (1, 28, 28)}


def test_the_number_of_quadrants_belongs_to_the_data():
    hashes = {load_data("mnist-5k", quadrants=number).content_hash for number in (None, 1, 2, 3)}
    assert len(hashes) == 4
    data = load_data("mnist-5k", quadrants=2, labels=True)
    assert str(data) == "ImageData('mnist-5k', 4000/500/500 of 392 with given, labels, stochastic, seed=0)"
    description = data.describe()
    assert description["tensors"] == {"missing": [4000, 392], "given": [4000, 1, 28, 28], "labels": [4000]}
    assert load_again(description).content_hash == data.content_hash
    assert "quadrants" not in load_data("mnist-5k").describe()


@pytest.mark.parametrize("number", [0, 4, 1.5, "1"])
def test_another_number_is_told_so(number):
    with pytest.raises(ValueError, match="Quadrants: quadrants"):
        load_data("mnist-5k", quadrants=number)


def test_data_that_are_no_images_have_no_quadrants(tmp_path):
    np.save(tmp_path / "flat.npy", np.random.default_rng(0).random((40, 7)))
    with pytest.raises(ValueError, match="must have shape"):
        load_data(tmp_path / "flat.npy", quadrants=1)
