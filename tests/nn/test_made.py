"""The masked network: who sees whom, by autograd."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.nn.made import MADE, MaskedLinear


@pytest.mark.parametrize("hidden_dims", [(), (4,), (9,), (11, 7), (4, 4, 4)])
@pytest.mark.parametrize("positions", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_each_output_sees_exactly_the_dimensions_before_its_own_and_the_context(hidden_dims, positions):
    made = MADE(positions, 3, hidden_dims, num_outputs=2).double()
    z, context = torch.randn(4).double(), torch.randn(3).double()
    by_z, by_context = zip(*torch.autograd.functional.jacobian(made, (z, context)), strict=True)
    place = torch.tensor(positions)
    for jacobian in by_z:
        assert torch.equal(jacobian != 0, place < place[:, None])
    for jacobian in by_context:
        assert (jacobian != 0).all()


def test_masked_weights_are_as_if_they_were_zero():
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    layer, plain = MaskedLinear(mask), nn.Linear(3, 2)
    with torch.no_grad():
        plain.weight.copy_(layer.weight * mask)
        plain.bias.copy_(layer.bias.fill_(0.5))
    x = torch.randn(5, 3)
    assert_close(layer(x), plain(x))
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad != 0, mask == 1)


def test_samples_share_a_context():
    made = MADE((0, 1, 2, 3), 3, (6,), num_outputs=3)
    z, context = torch.randn(5, 7, 4), torch.randn(7, 3)
    together = made(z, context)
    assert [part.shape for part in together] == [(5, 7, 4)] * 3
    assert_close(together, made(z, context.expand(5, 7, 3)))


def test_masks_are_no_part_of_a_checkpoint():
    made = MADE((0, 1), 3, (6,), num_outputs=2)
    assert not [name for name in made.state_dict() if "mask" in name]
    assert made.double().first.mask.dtype == torch.float64


def test_narrow_layers_and_unknown_activations_are_refused():
    with pytest.raises(ValueError, match=r"as wide as z, 4, .*\(8, 3\)"):
        MADE((0, 1, 2, 3), 2, (8, 3), num_outputs=2)
    with pytest.raises(ValueError, match=r"MADE: activation .*'sine'"):
        MADE((0, 1), 2, (8,), num_outputs=2, activation="sine")
