"""q(z | x, y): every guide of one datum serves as its base, and is given y. Its exact cases are those of its model."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pyro_vae
from pyro_vae.guides import AuxiliaryGuide, ConditionalGuide, LowRankGuide, MeanFieldGuide
from pyro_vae.models import ConditionalVAE
from pyro_vae.nn import MLP
from pyro_vae.parts import make_pair
from pyro_vae.testing import GuideSuite

LABELS = torch.tensor([0, 2, 1, 1])
X = torch.tensor([[0.0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])


def test_the_base_sees_x_first_and_then_the_code_of_y():
    guide = ConditionalGuide((3,), 2, (5,), base="low_rank(rank=2)", num_classes=3).double()
    x = X.double()
    rows = torch.cat([x, torch.eye(3).double()[LABELS]], 1)
    assert isinstance(guide.guide, LowRankGuide)
    z = torch.randn(4, 2).double()
    assert_close(guide.posterior(x, LABELS).log_prob(z), guide.guide.posterior(rows).log_prob(z), rtol=0, atol=0)


def test_a_base_may_be_an_object_or_of_no_closed_density():
    base = MeanFieldGuide((6,), 2, (5,))
    guide = ConditionalGuide((3,), 2, base=base, num_classes=3)
    assert guide.guide is base
    assert guide.base is base
    assert guide.encoder is None
    without = ConditionalGuide((3,), 2, base="auxiliary", num_classes=3)
    assert isinstance(without.guide, AuxiliaryGuide)
    assert not hasattr(without, "posterior")
    assert pyro_vae.log_weights(ConditionalVAE((3,), 2, (5,), num_classes=3), without, (X, LABELS), 5).shape == (5, 4)


def test_what_a_base_says_of_its_family_is_the_guides():
    class Declared(MeanFieldGuide):
        family = "diagonal"

    assert ConditionalGuide((3,), 2, base=Declared((6,), 2), num_classes=3).family == "diagonal"
    for name in ("family", "fills_family"):
        assert not hasattr(ConditionalGuide((3,), 2, num_classes=3), name)


class Convolution(nn.Module):
    """Needs the shape of the image, and takes what follows it."""

    def __init__(self, in_features, out_features, x_shape):
        super().__init__()
        self.in_features, self.out_features, self.x_shape = in_features, out_features, tuple(x_shape)
        self.image = nn.Conv2d(x_shape[0], 2, (x_shape[1], x_shape[2]))
        self.rest = nn.Linear(in_features - math.prod(x_shape) + 2, out_features)

    def forward(self, rows):
        image, further = rows.split([self.x_shape[1] * self.x_shape[2], self.rest.in_features - 2], -1)
        seen = self.image(image.reshape(-1, *self.x_shape)).reshape(*rows.shape[:-1], 2)
        return self.rest(torch.cat([seen, further], -1))


@pytest.mark.parametrize("encoder", [Convolution, partial(Convolution)])
def test_an_encoder_is_made_with_the_shape_of_the_image(encoder):
    guide = ConditionalGuide((1, 3, 2), 2, num_classes=3, encoder=encoder)
    assert (guide.encoder.in_features, guide.encoder.out_features, guide.encoder.x_shape) == (9, 4, (1, 3, 2))
    assert guide.posterior(torch.zeros(4, 1, 3, 2), LABELS).batch_shape == (4,)


def test_a_pair_by_name_has_the_networks_that_are_asked_for():
    _, guide = make_pair(
        (1, 3, 2), 2, (5,), model="conditional_vae", guide="conditional(base='full_rank')",
        encoder="mlp(activation='relu')", encoder_dims=(7, 6), num_classes=3, y_shape=(),
    )  # fmt: skip
    assert isinstance(guide.encoder, MLP)
    assert (guide.encoder.in_features, guide.encoder.hidden_dims, guide.encoder.activation) == (9, (7, 6), "relu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs num_classes"),
        ({"num_classes": 3, "base": MeanFieldGuide}, "base must be the name"),
        ({"num_classes": 3, "base": "meanfield"}, "unknown name"),
        ({"num_classes": 3, "base": "semi_amortized"}, "needs `model`"),
        ({"num_classes": 3, "base": "local", "encoder": MLP}, "takes no encoder"),
        ({"num_classes": 3, "base": MeanFieldGuide((6,), 2), "encoder": MLP}, "has its encoder"),
    ],
)
def test_arguments_that_do_not_fit_are_told_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConditionalGuide((3,), 2, **arguments)


class Labelled:
    def data(self, part, n, dtype=torch.float32):
        return super().data(part, n, dtype), torch.randint(3, (n,))


class TestContract(Labelled, GuideSuite):
    part = "conditional"
    model = "conditional_vae(num_classes=3)"


class TestContractOfAFlow(Labelled, GuideSuite):
    part = "conditional(base='iaf(num_flows=2, flow_hidden_dims=(8,), context_dim=4)')"
    model = "conditional_vae(conditional_prior=True, num_classes=3)"


class TestContractWithoutADensity(Labelled, GuideSuite):
    part = "conditional(base='auxiliary(context_dim=4)')"
    model = "conditional_vae(num_classes=3)"
