"""Shapes and values that a user's array may have."""

import numpy as np
import pytest
import torch

from pyro_vae.data.pixels import as_pixels


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((10, 6), (10, 6)),
        ((10, 6, 7), (10, 1, 6, 7)),
        ((10, 1, 6, 7), (10, 1, 6, 7)),
        ((10, 3, 6, 7), (10, 3, 6, 7)),
        ((10, 6, 7, 1), (10, 1, 6, 7)),
        ((10, 6, 7, 3), (10, 3, 6, 7)),
    ],
)
def test_channels_come_first(shape, expected):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = as_pixels(array, "here")
    assert (tuple(pixels.shape), pixels.dtype) == (expected, torch.uint8)
    moved = array.transpose(0, 3, 1, 2) if len(shape) == 4 and shape[1] == 6 else array.reshape(expected)
    assert np.array_equal(pixels.numpy(), moved)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10,), "got 1 dimensions"),
        ((2, 1, 1, 4, 4), "got 5 dimensions"),
        ((10, 4, 6, 7), "channels neither first nor last"),
        ((10, 3, 6, 3), "could .*channels first or last"),
        ((0, 4, 4), r"here is empty: .*\(0, 4, 4\)"),
        ((10, 0, 4), r"here is empty: .*\(10, 0, 4\)"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        as_pixels(np.zeros(shape, dtype=np.uint8), "here")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_floats_become_float32(dtype):
    pixels = as_pixels(np.array([[0.0, 0.25, 1.0]], dtype=dtype), "here")
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == [[0.0, 0.25, 1.0]]


def test_bool_means_black_and_white():
    assert as_pixels(np.array([[True, False]]), "here").tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.complex64, "U3"])
def test_other_dtypes_are_refused_with_the_fix(dtype):
    with pytest.raises(ValueError, match=r"must be uint8 .*np\.uint8"):
        as_pixels(np.ones((4, 4)).astype(dtype), "here")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_the_first_is_named(value):
    array = np.full((5, 4, 3), 0.5)
    array[2, 1, 0] = array[3, 0, 0] = value
    message = r"2 of 60 .*\(2, 0, 1, 0\), not"
    with pytest.raises(ValueError, match=message):
        as_pixels(array, "here")


@pytest.mark.parametrize(("value", "fix"), [(-0.001, "standardised"), (1.001, "rescaled"), (255.0, "divide by 255")])
def test_values_outside_the_unit_interval_are_counted_and_the_fix_is_named(value, fix):
    array = np.full((5, 4), 0.5)
    array[4, 3] = value
    with pytest.raises(
        ValueError,
        match=rf"\(4, 3\), outside .*{fix}",
    ):
        as_pixels(array, "here")


def test_zeros_and_ones_as_bytes_are_refused_since_they_would_be_almost_black():
    with pytest.raises(ValueError, match=r"value is 1\. .*\(bool\)"):
        as_pixels(np.eye(4, dtype=np.uint8), "here")


@pytest.mark.parametrize(("value", "end"), [(1 + 2.2e-16, 1.0), (-1e-17, 0.0), (np.float32(1.0000001), 1.0)])
def test_pixels_beyond_an_end_by_a_rounding_are_at_the_end(value, end):
    """0.1 + 0.2 + 0.7 and quotients of pixels come out so."""
    array = np.full((5, 4), 0.5, dtype=np.asarray(value).dtype)
    array[4, 3] = value
    found = as_pixels(array, "here")
    assert found[4, 3].item() == end
    assert (found.flatten()[:19] == 0.5).all()
