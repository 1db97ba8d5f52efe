"""Guides with parameters of each datum by its place: trained on the same data each time, or refused."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae.errors import PairError

DECODER = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -0.4]])

EPOCHS = 600
SETTLED = {
    "epochs": EPOCHS,
    "optimizer": partial(Adam, lr=0.05),
    "scheduler": partial(CosineAnnealingLR, T_max=EPOCHS, eta_min=1e-4),
}
"""Training until the noise of the gradient no longer moves the means."""


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ DECODER, 1.0).to_event(1), obs=x)


def of_two(x):
    with pyro.plate("data", 2):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ DECODER, 1.0).to_event(1), obs=x)


def numbered(x, number):
    with pyro.plate("data", 6, subsample=number):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ DECODER, 1.0).to_event(1), obs=x)


def posterior_mean(x):
    return x @ DECODER.T @ (torch.eye(2) + DECODER @ DECODER.T).inverse()


def static_function(x):
    loc = pyro.param("locations", x.new_zeros(len(x), 2), event_dim=1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


class Static(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size, 2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


class Amortized(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.network(x), 1.0).to_event(1))


def auto_list():
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    return guide


GUIDES = {
    "AutoNormal": lambda: AutoNormal(model),
    "AutoGuideList": auto_list,
    "AutoMultivariateNormal": lambda: AutoMultivariateNormal(model),
    "a function": lambda: static_function,
    "a module": lambda: Static(2),
}


def fit(model, guide, data, **settings):
    return pyro_vae.fit(model, guide, data, **{"epochs": 1, "batch_size": 2, "compile": "off", **settings})


@pytest.mark.parametrize("name", GUIDES)
def test_batches_of_other_data_each_time_are_refused(name):
    x = torch.randn(5, 3)
    loader = DataLoader(TensorDataset(x), batch_size=2)
    for data in (x, loader, DataLoader(TensorDataset(x[:2]), batch_size=2, shuffle=True)):
        with pytest.raises(PairError, match=r"batches of 2 hold .*len\(data\)"):
            fit(model, GUIDES[name](), data)


def test_a_plate_of_the_batchs_size_changes_nothing():
    with pytest.raises(PairError, match=r"the guide has .* by its place"):
        fit(of_two, AutoNormal(of_two), torch.randn(6, 3))


def test_a_model_with_parameters_of_each_datum_is_refused_too():
    def shifted(x):
        shift = pyro.param("shift", torch.zeros(len(x), 1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ DECODER + shift, 1.0).to_event(1), obs=x)

    with pytest.raises(PairError, match=r"the model has .* by its place"):
        fit(shifted, Amortized(), torch.randn(6, 3))


def test_a_guide_that_was_made_for_other_data():
    guide = AutoNormal(model)
    guide(torch.randn(5, 3))
    with pytest.raises(PairError, match=r"for 5 data, .* 2 were given"):
        fit(model, guide, torch.randn(6, 3))


def test_validation_data_are_refused():
    x = torch.randn(5, 3)
    with pytest.raises(PairError, match="none for validation data"):
        fit(model, AutoNormal(model), x, valid=x, batch_size=5)


def test_global_parameters_of_the_batchs_size_are_none_of_data():
    def regression(x):
        with pyro.plate("features", 3):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=x.sum(-1))

    guide = AutoNormal(regression)
    for _ in range(2):
        fit(regression, guide, torch.randn(9, 3), batch_size=3, valid=torch.randn(4, 3))


@pytest.mark.parametrize("loads", [False, True])
def test_all_data_in_one_batch_keep_their_parameters(loads):
    """Within 0.2 of the posterior's means, which lie some units apart: shuffled data would share one."""
    x = 3 * torch.randn(6, 3)
    guide = AutoNormal(model)
    data = DataLoader(TensorDataset(x), batch_size=6) if loads else x
    fit(model, guide, data, batch_size=6, **SETTLED)
    assert_close(guide.locs.z, posterior_mean(x), rtol=0, atol=0.2)


def test_numbered_data_find_their_parameters():
    x = 3 * torch.randn(6, 3)
    guide = AutoNormal(numbered, create_plates=lambda x, number: pyro.plate("data", 6, subsample=number))  # noqa: ARG005
    data = x, torch.arange(6)
    fit(numbered, guide, data, **SETTLED)
    assert_close(guide.locs.z, posterior_mean(x), rtol=0, atol=0.2)
