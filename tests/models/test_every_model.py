"""What every model owes. A model without an entry below fails; it is not skipped."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch.testing import assert_close

from pyro_vae import log_weights, models
from pyro_vae.graphs.capture import capture
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES

LATENT_DIM = 3

MAKE = {
    "VAE": lambda: (models.VAE((1, 3, 2), LATENT_DIM, (5,)), (1, 3, 2)),
    "LinearGaussian": lambda: (models.LinearGaussian(6, LATENT_DIM), (6,)),
}
"""Name to a model and the shape of its datum."""

ROLES = {"likelihoods", "priors"}
"""What else `pyro_vae.models` exports: the folders of a model's parts."""

NAMES = [name for name in models.__all__ if name not in ROLES]


def make(name, dtype=torch.float32):
    assert name in MAKE, f"model {name} has no entry in MAKE of {__file__}"
    model, x_shape = MAKE[name]()
    return model.to(dtype), x_shape


def binary(n, x_shape, dtype=torch.float32):
    return torch.rand(n, *x_shape, dtype=dtype).round()


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM, dtype=x.dtype), 0.7).to_event(1))


def test_every_model_is_here():
    assert set(NAMES) == set(MAKE)


every_model = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_model
@every_dtype
@pytest.mark.parametrize("n", [1, 7])
def test_sites_plate_shapes_and_dtype(name, dtype, n):
    model, x_shape = make(name, dtype)
    trace = poutine.trace(model).get_trace(binary(n, x_shape, dtype))
    assert [site for site in trace.stochastic_nodes if site != "data"] == ["z"]
    assert trace.observation_nodes == ["x"]
    trace.compute_log_prob()
    for name_, event in (("z", (LATENT_DIM,)), ("x", x_shape)):
        site = trace.nodes[name_]
        assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, n)]
        assert (site["value"].shape, site["value"].dtype) == ((n, *event), dtype)
        assert (site["fn"].batch_shape, site["fn"].event_shape) == ((n,), event)
        assert (site["log_prob"].shape, site["log_prob"].dtype) == ((n,), dtype)
    assert torch.equal(trace.nodes["_RETURN"]["value"], trace.nodes["z"]["value"])


@every_model
def test_samples_vectorize(name):
    model, x_shape = make(name)
    assert isinstance(Pair(model, guide, binary(4, x_shape)).layout, OuterPlate)
    with pyro.plate(PARTICLES, 5, dim=-2):
        z = model(binary(4, x_shape))
    assert z.shape == (5, 4, LATENT_DIM)


@every_model
def test_data_are_independent(name):
    model, x_shape = make(name, torch.float64)
    x = binary(6, x_shape, torch.float64)
    z = torch.randn(6, LATENT_DIM, dtype=torch.float64)

    def joint(rows):
        trace = poutine.trace(poutine.condition(model, {"z": z[rows]})).get_trace(x[rows])
        trace.compute_log_prob()
        return trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]

    together = joint(slice(None))
    assert_close(together, torch.cat([joint(slice(n, n + 1)) for n in range(6)]), rtol=1e-12, atol=1e-12)


@every_model
def test_state_dict_round_trip(name):
    (first, x_shape), (second, _) = make(name), make(name)
    x = binary(4, x_shape)

    def weights(model):
        torch.manual_seed(0)
        return log_weights(model, guide, x).detach()

    assert not torch.equal(weights(first), weights(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(weights(first), weights(second))


@every_model
def test_gradient_reaches_every_parameter(name):
    model, x_shape = make(name)
    (-log_weights(model, guide, binary(20, x_shape), 2).sum()).backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.abs().sum() > 0, parameter


@every_model
def test_it_survives_being_captured(name):
    model, x_shape = make(name)
    x, other = binary(4, x_shape), binary(4, x_shape)
    pair = Pair(model, guide, x)
    assert isinstance(pair.layout, OuterPlate)
    with torch.no_grad():
        graph = capture(lambda x: [pair.terms(x, 3).log_weight], [x], [other], [model])
        torch.manual_seed(2)
        expected = pair.terms(other, 3).log_weight
        torch.manual_seed(2)
        assert_close(graph(other)[0], expected)


@every_model
def test_the_parameter_store_stays_empty(name):
    model, x_shape = make(name)
    log_weights(model, guide, binary(4, x_shape))
    assert len(pyro.get_param_store()) == 0


@every_model
def test_wrong_shapes_and_dtypes_are_refused(name):
    model, x_shape = make(name)
    for bad in (torch.zeros(4, *x_shape, 1), torch.zeros(x_shape), torch.zeros(4, *x_shape[:-1], x_shape[-1] + 1)):
        with pytest.raises(ValueError, match=rf"{name}: x must have shape \(batch, .*got"):
            model(bad)
    with pytest.raises(ValueError, match=f"{name}: x must be floating point; got torch.int64"):
        model(torch.zeros(4, *x_shape, dtype=torch.int64))
