"""What guides with one encoder share: which feature is what."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.guides.amortized import AmortizedGuide


def guide(encoder=None):
    return AmortizedGuide((2, 3), 4, (5,), "tanh", encoder, {"location": 4, "weights": 2})


def test_blocks_come_in_their_order():
    encoder = nn.Linear(6, 6)
    nn.init.zeros_(encoder.weight)
    with torch.no_grad():
        encoder.bias.copy_(torch.arange(6.0))
    location, weights = guide(encoder).features(torch.randn(7, 2, 3))
    assert_close(location, torch.arange(4.0).expand(7, 4))
    assert_close(weights, torch.tensor([4.0, 5.0]).expand(7, 2))


def test_the_default_encoder_owes_every_block():
    assert [part.shape for part in guide().features(torch.randn(9, 7, 2, 3))] == [(9, 7, 4), (9, 7, 2)]


def test_another_number_of_features_is_told():
    with pytest.raises(ValueError, match=r"4 \(location\) .* = 6 .*\(7, 5\)"):
        guide(nn.Linear(6, 5)).features(torch.randn(7, 2, 3))
