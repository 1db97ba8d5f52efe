"""Which further tensors of a datum a part is called with, by what its forward names."""

import pytest
import torch
from torch import nn

from pyro_vae.errors import PairError
from pyro_vae.nn import MLP, MaskedMLP
from pyro_vae.nn.further_tensors import further_arguments, likelihood_given, observed_mask, taken_by


class Two(nn.Module):
    def forward(self, z, library, batch=None):
        return z, library, batch


def maybe(z, library=None):
    return z, library


def everything(*tensors):
    return tensors


def test_arguments_are_read_off_the_forward():
    assert further_arguments(Two()) == (("library", "batch"), 1, False)
    assert further_arguments(MLP(2, (), 1)) == ((), 0, False)
    assert further_arguments(MaskedMLP(2, (), 1)) == (("observed",), 0, False)
    assert further_arguments(everything).takes_all
    # What has no signature is called with everything.
    assert further_arguments(max).takes_all


def test_the_first_ones_are_taken():
    further = [torch.zeros(3), torch.ones(3)]
    assert taken_by(lambda x: x, further) == ()
    assert taken_by(maybe, further) == (further[0],)
    assert taken_by(everything, further) == tuple(further)


def test_a_mask_is_boolean_and_has_the_shape_of_x():
    x = torch.zeros(5, 2, 3)
    mask = x == 0
    assert observed_mask(x, [torch.zeros(5), x, mask[..., 0], mask]) is mask
    assert observed_mask(x, []) is None


@pytest.mark.parametrize(
    ("likelihood", "count", "message"),
    [
        (Two(), 0, "called with z and library"),
        (lambda z: z, 1, r"of shapes \(3,\), and function"),
        (maybe, 2, "takes library. Leave out"),
    ],
)
def test_a_likelihood_takes_all_or_it_is_said(likelihood, count, message):
    with pytest.raises(PairError, match=message):
        likelihood_given("VAE", likelihood, torch.zeros(3, 2), [torch.zeros(3)] * count)
