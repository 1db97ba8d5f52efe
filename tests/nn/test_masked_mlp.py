"""The perceptron of data with missing values: what it fills, what it sees of the mask, and the contract."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.guides import MeanFieldGuide
from pyro_vae.nn import MaskedMLP
from pyro_vae.testing import NetworkSuite

OBSERVED = torch.tensor([[True, False, True], [False, False, True]])
X = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, 1e30, -2.0]])


@pytest.mark.parametrize("fill", [0.0, -0.7, "learned"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_what_is_missing_is_filled_and_marked(fill, with_mask):
    network = MaskedMLP(3, (4,), 2, fill=fill, with_mask=with_mask)
    filler = torch.full((3,), 0.0 if fill == "learned" else fill)
    if fill == "learned":
        filler = torch.nn.init.normal_(network.filler.detach())
    filled = torch.stack([torch.stack([X[0, 0], filler[1], X[0, 2]]), torch.stack([filler[0], filler[1], X[1, 2]])])
    expected = network.mlp(torch.cat([filled, OBSERVED.float()], 1) if with_mask else filled)
    assert_close(network(X, OBSERVED), expected)


def test_a_filler_is_learned_where_something_is_missing():
    network = MaskedMLP(3, (4,), 2, fill="learned")
    network(X, OBSERVED).sum().backward()
    assert network.filler.grad[:2].abs().min() > 0
    assert network.filler.grad[2] == 0
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_without_a_mask_all_is_observed():
    network, x = MaskedMLP(3, (4,), 2), torch.randn(5, 7, 3)
    assert torch.equal(network(x), network(x, torch.ones(5, 7, 3, dtype=torch.bool)))


def test_a_guide_gives_it_the_mask_flat():
    guide = MeanFieldGuide((1, 3, 1), 2, (4,), encoder=MaskedMLP)
    x, observed = X.reshape(2, 1, 3, 1), OBSERVED.reshape(2, 1, 3, 1)
    loc, log_scale = guide.encoder(X, OBSERVED).chunk(2, -1)
    q = guide.posterior(x, observed)
    assert_close((q.mean, q.stddev), (loc, log_scale.exp()))
    assert not torch.allclose(q.mean, guide.posterior(x.where(observed, 0.0)).mean)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"fill": "mean"}, "fill must be a finite"),
        ({"fill": float("nan")}, "fill must"),
        ({"with_mask": 1}, "with_mask must"),
    ],
)
def test_options_that_are_none_are_refused(option, message):
    with pytest.raises(ValueError, match=f"MaskedMLP: {message}"):
        MaskedMLP(3, (4,), 2, **option)


class TestContract(NetworkSuite):
    part = "masked_mlp"
