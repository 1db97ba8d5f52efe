"""A parameter of Pyro's store under one name in two pairs."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_vae import fit


def pair(name="loc"):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param(name, torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x)]))

    return model, guide


def fitted(*programs):
    return fit(*programs, torch.ones(8), epochs=1, batch_size=4, progress=False)


@pytest.fixture
def said(caplog):
    caplog.set_level("WARNING", logger="pyro_vae")
    return lambda: [record.getMessage() for record in caplog.records if "also a parameter of" in record.getMessage()]


def test_a_second_pair_with_the_same_name_is_warned_of_by_name(said):
    first = fitted(*pair())
    assert said() == []
    second = fitted(*pair())
    (line,) = said()
    assert line.startswith("fit: pyro.param 'loc' is also a parameter of pair.<locals>.guide, which was fitted before")
    assert first.guide is not second.guide


def test_programs_that_share_nothing_or_themselves_are_not(said):
    model, guide = pair()
    runs = [fitted(model, guide), fitted(model, guide), fitted(poutine.scale(model, 0.5), poutine.scale(guide, 0.5))]
    runs.append(fitted(*pair("other")))
    pyro.clear_param_store()
    runs.append(fitted(*pair()))
    assert said() == []
    assert len(runs) == 5


def test_a_model_that_two_guides_are_fitted_to_is_shared_openly(said):
    def model(x):
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    runs = [fitted(model, pair("a")[1]), fitted(model, pair("b")[1])]
    assert said() == []
    runs.append(fitted(pair()[0], pair("b")[1]))
    assert len(said()) == 1


def test_a_pair_that_is_gone_is_not_missed(said):
    fitted(*pair())
    import gc

    gc.collect()
    fitted(*pair())
    assert said() == []
