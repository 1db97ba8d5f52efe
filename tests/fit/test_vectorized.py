"""Pyro's vectorized particles: a pair that does not take their dim is told what to do, and gives no wrong numbers."""

import logging

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from torch import nn

import pyro_vae
from pyro_vae.errors import PairError

PARTICLES = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


class Decoder(nn.Module):
    """From z to a law over 4 numbers, in networks that take one batch dim in several ways, or any."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.linear, self.convolution = nn.Linear(2, 12), nn.ConvTranspose2d(3, 1, 2, 1, 1)

    def forward(self, z):
        h = self.linear(z).relu()
        if self.how == "asserts":
            assert z.ndim == 2
        if self.how == "softmax":
            return h[..., :4].softmax(dim=1)
        if self.how == "length":
            return h.reshape(len(z), 12)[:, :4]
        if self.how == "keeps":
            return h[..., :4]
        return self.convolution(h.reshape(-1, 3, 2, 2)).reshape(-1, 4)


class Pairs(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.decoder, self.encoder = Decoder(how), nn.Linear(4, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.decoder(z)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[..., : loc.shape[-1]])

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def fit(pair, objective, **settings):
    x = torch.randn(8, 4)
    return pyro_vae.fit(pair.model, pair.guide, x, objective=objective, epochs=1, batch_size=4, **settings)


@pytest.mark.parametrize("how", ["reshapes", "length", "asserts", "softmax"])
def test_networks_of_one_batch_dim_are_refused_with_the_remedy(how):
    """Also a softmax over what would be the data, which goes through without an error and is wrong."""
    with pytest.raises(PairError, match=r"num_particles=3, .*IWAE\(3\)"):
        fit(Pairs(how), Trace_ELBO(**PARTICLES))
    fit(Pairs(how), Trace_ELBO(num_particles=3), compile="off")


OBJECTIVES = [TraceGraph_ELBO, TraceEnum_ELBO, RenyiELBO, TraceMeanField_ELBO]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured")
def test_pyros_other_objectives(objective):
    with pytest.raises(PairError, match=rf"{objective.__name__}\(num_particles=3"):
        fit(Pairs("reshapes"), objective(**PARTICLES))
    fit(Pairs("keeps"), objective(**PARTICLES), compile="off")


class Mixture(Pairs):
    """Of which the model alone has a site, which is enumerated: no pair with weights of each datum."""

    @config_enumerate
    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(self.decoder(z) + k[..., None], 1.0).to_event(1), obs=x)


def test_sites_that_only_the_model_enumerates(caplog):
    caplog.set_level(logging.ERROR, "pyro_vae")
    with pytest.raises(PairError, match=r"TraceEnum_ELBO\(num_particles=3"):
        fit(Mixture("reshapes"), TraceEnum_ELBO(**PARTICLES))
    fit(Mixture("reshapes"), TraceEnum_ELBO(num_particles=3, max_plate_nesting=1), compile="off")
    fit(Mixture("keeps"), TraceEnum_ELBO(**PARTICLES), compile="off")


def test_batch_normalization_does_not_count_as_one_batch_dim():
    """In training it couples the particles as it couples the data."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, z):
            return self.norm(z.flatten(0, -2)).reshape(z.shape).repeat(*[1] * (z.ndim - 1), 2)

    pair = Pairs("keeps")
    pair.decoder = Normed()
    fit(pair, Trace_ELBO(**PARTICLES), compile="off")


def test_another_error_of_a_first_step_stays_what_it_is():
    class Fails(Trace_ELBO):
        def differentiable_loss(self, model, guide, *args):  # noqa: ARG002
            raise ValueError("no luck")

    with pytest.raises(ValueError, match=r"^no luck( \(.*\))?$"):
        fit(Pairs("keeps"), Fails(**PARTICLES))
