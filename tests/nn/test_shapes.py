"""flatten_event: what it takes, and what it refuses."""

import pytest
import torch

from pyro_vae.nn import flatten_event


@pytest.mark.parametrize("batch", [(5,), (2, 5), (1,)])
@pytest.mark.parametrize(("x_shape", "flat"), [((2, 3, 4), 24), ((7,), 7), ((3, 1), 3)])
def test_the_event_becomes_one_dim_in_order(batch, x_shape, flat):
    x = torch.randn(*batch, *x_shape)
    found = flatten_event(x, x_shape, "here")
    assert found.shape == (*batch, flat)
    assert torch.equal(found.reshape(x.shape), x)


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 12), (12,), (), (5, 3, 4, 1)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"here: x must have .*x_shape"):
        flatten_event(torch.zeros(shape), (3, 4), "here")


def test_one_datum_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"got \(3, 4\)"):
        flatten_event(torch.zeros(3, 4), (3, 4), "here")
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        flatten_event(torch.zeros(4), (4,), "here")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=f"floating point; got {dtype}"):
        flatten_event(torch.zeros(5, 3, 4, dtype=dtype), (3, 4), "here")
