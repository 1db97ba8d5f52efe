"""Patches of scikit-learn's photographs: which pixels each split has."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from pyro_vae.data import is_available, load_data


def test_the_patches_are_those_of_the_photographs_in_regions_that_do_not_overlap():
    """Every pixel is in one split, at its place, but for the 11 lowest rows."""
    data = load_data("photo-patches", labels=True)
    assert is_available("photo-patches")
    assert (data.x_shape, data.binarization) == ((3, 32, 32), "none")
    for number, photograph in enumerate(load_sample_images().images):
        strips = []
        for images, labels in (data.train, data.valid, data.test):
            patches = (images[labels == number] * 255).round().to(torch.uint8).numpy()
            rows = patches.reshape(13, -1, 3, 32, 32)
            strips.append(rows.transpose(0, 3, 1, 4, 2).reshape(416, -1, 3))
        assert [strip.shape[1] for strip in strips] == [512, 64, 64]
        assert np.array_equal(np.concatenate(strips, axis=1), photograph[:416])


def test_the_regions_are_fixed():
    assert load_data("photo-patches", valid_size=52).valid.shape == (52, 3, 32, 32)
    with pytest.raises(ValueError, match=r"regions of the .* got 10"):
        load_data("photo-patches", valid_size=10)
