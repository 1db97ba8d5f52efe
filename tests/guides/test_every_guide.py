"""What every guide owes. A guide without an entry below fails; it is not skipped."""

import logging

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_vae import guides, log_likelihood, log_weights
from pyro_vae.graphs.capture import capture
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.models import VAE
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import PARTICLES
from pyro_vae.protocols import PosteriorGuide
from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise

X_SHAPE, LATENT_DIM = (1, 3, 2), 4
EVERY_IMAGE = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).reshape(-1, *X_SHAPE)
"""All that `binary` can draw: what a guide that is not amortized is made with."""


def model_without_parameters(x):
    """For a guide that runs a model: takes x of either dtype."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT_DIM), 1.0).to_event(1))
        loc = z.sin().sum(-1).reshape(-1, 1, 1, 1).expand(-1, *X_SHAPE)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)


MAKE = {
    "AuxiliaryGuide": lambda: guides.AuxiliaryGuide(X_SHAPE, LATENT_DIM, (5,), context_dim=3),
    "FullRankGuide": lambda: guides.FullRankGuide(X_SHAPE, LATENT_DIM, (5,)),
    "HouseholderGuide": lambda: guides.HouseholderGuide(X_SHAPE, LATENT_DIM, (5,), num_reflections=2),
    "InverseAutoregressiveGuide": lambda: guides.InverseAutoregressiveGuide(
        X_SHAPE, LATENT_DIM, (5,), num_flows=2, flow_hidden_dims=(6,), context_dim=3
    ),
    "LocalGuide": lambda: guides.LocalGuide(X_SHAPE, LATENT_DIM, data=EVERY_IMAGE),
    "LowRankGuide": lambda: guides.LowRankGuide(X_SHAPE, LATENT_DIM, (5,), rank=2),
    "MeanFieldGuide": lambda: guides.MeanFieldGuide(X_SHAPE, LATENT_DIM, (5,)),
    "MixtureGuide": lambda: guides.MixtureGuide(X_SHAPE, LATENT_DIM, (5,), num_components=3),
    "PlanarGuide": lambda: guides.PlanarGuide(X_SHAPE, LATENT_DIM, (5,), num_flows=2),
    "SemiAmortizedGuide": lambda: guides.SemiAmortizedGuide(
        X_SHAPE, LATENT_DIM, (5,), num_steps=2, model=model_without_parameters
    ),
    "SplineGuide": lambda: guides.SplineGuide(
        X_SHAPE, LATENT_DIM, (5,), num_flows=2, flow_hidden_dims=(6,), context_dim=3, num_bins=4
    ),
    "SylvesterGuide": lambda: guides.SylvesterGuide(
        X_SHAPE, LATENT_DIM, (5,), num_flows=2, num_columns=3, num_reflections=2
    ),
}


def make(name, dtype=torch.float32):
    assert name in MAKE, f"guide {name} has no entry in MAKE of {__file__}"
    return MAKE[name]().to(dtype)


def binary(n, dtype=torch.float32):
    return torch.rand(n, *X_SHAPE, dtype=dtype).round()


def scores_any_z(q):
    """A flow without an inverse scores only what it draws itself."""
    return getattr(q, "invertible", True)


def model_for(dtype=torch.float32):
    return VAE(X_SHAPE, LATENT_DIM, (5,)).to(dtype)


def test_every_guide_is_here():
    assert set(guides.__all__) == set(MAKE)


every_guide = pytest.mark.parametrize("name", guides.__all__)
with_an_encoder = pytest.mark.parametrize(
    "name", [name for name in guides.__all__ if issubclass(getattr(guides, name), AmortizedGuide)]
)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_guide
@every_dtype
@pytest.mark.parametrize("n", [1, 2, 7])
def test_sites_plate_shapes_and_dtype_at_any_batch_size(name, dtype, n):
    trace = poutine.trace(make(name, dtype)).get_trace(binary(n, dtype))
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, n)]
    assert (site["value"].shape, site["value"].dtype) == ((n, LATENT_DIM), dtype)
    assert (site["log_prob"].shape, site["log_prob"].dtype) == ((n,), dtype)


@every_guide
@every_dtype
def test_weights_with_a_model(name, dtype):
    weights = log_weights(model_for(dtype), make(name, dtype), binary(7, dtype), 5)
    assert (weights.shape, weights.dtype) == ((5, 7), dtype)
    assert weights.isfinite().all()


@every_guide
def test_leading_sample_dims(name):
    guide = make(name)
    assert isinstance(Pair(model_for(), guide, binary(7)).layout, OuterPlate)
    with pyro.plate(PARTICLES, 5, dim=-2):
        trace = poutine.trace(guide).get_trace(binary(7))
    assert trace.nodes["z"]["value"].shape == (5, 7, LATENT_DIM)
    assert trace.nodes["z"]["fn"].log_prob(trace.nodes["z"]["value"]).shape == (5, 7)


@every_guide
def test_a_datum_does_not_feel_the_others(name):
    """Its log-density under the same z, and the same auxiliary variables, is the same alone as in a batch."""
    guide, x = make(name, torch.float64).eval(), binary(6, torch.float64)
    drawn = poutine.trace(guide).get_trace(x)
    values = {site: drawn.nodes[site]["value"] for site in drawn.stochastic_nodes}
    values["z"] = torch.randn(6, LATENT_DIM, dtype=torch.float64)

    def density(rows):
        class Prior(nn.Module):
            def forward(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0).expand([LATENT_DIM]).to_event(1))
                    pyro.sample("x", dist.Normal(x.flatten(1), 1.0).to_event(1), obs=x.flatten(1))

        fixed = poutine.trace(guide).get_trace(x[rows])
        for site, value in values.items():
            fixed.nodes[site]["value"] = value[rows]
        return log_weights(Prior(), poutine.replay(guide, trace=fixed), x[rows])[0]

    if isinstance(guide, PosteriorGuide) and not scores_any_z(guide.posterior(x)):
        with pytest.raises(ValueError, match=rf"{name}: this flow has no inverse"):
            density(slice(None))
        return
    together = density(slice(None))
    assert_close(together, torch.cat([density(slice(n, n + 1)) for n in range(6)]), rtol=1e-10, atol=1e-10)


@every_guide
def test_a_datum_draws_alone_what_it_draws_among_others(name):
    """Under the same noise, with the same log-density."""
    guide, x = make(name, torch.float64).eval(), binary(6, torch.float64)

    def drawn(rows):
        site = poutine.trace(guide).get_trace(x[rows]).nodes["z"]
        return site["value"], site["fn"].log_prob(site["value"])

    with RecordedNoise() as noise:
        z, log_prob = drawn(slice(None))
    for n in range(6):
        with ReplayedNoise([draw[n : n + 1] for draw in noise.draws], 0):
            alone = drawn(slice(n, n + 1))
        assert_close(alone, (z[n : n + 1], log_prob[n : n + 1]), rtol=1e-10, atol=1e-10)


@every_guide
def test_posterior_is_the_density_that_is_sampled(name):
    guide, x = make(name, torch.float64).eval(), binary(7, torch.float64)
    if not isinstance(guide, PosteriorGuide):
        assert not hasattr(guide, "posterior")
        return
    q = guide.posterior(x)
    assert (q.batch_shape, q.event_shape) == ((7,), (LATENT_DIM,))
    assert q.sample((5,)).shape == (5, 7, LATENT_DIM)
    torch.manual_seed(0)
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    z = site["value"]
    if not scores_any_z(q):
        torch.manual_seed(0)
        z = q.rsample()
        assert_close(z, site["value"], rtol=1e-12, atol=1e-12)
    assert_close(q.log_prob(z), site["fn"].log_prob(site["value"]), rtol=1e-12, atol=1e-12)


@every_guide
def test_state_dict_round_trip(name):
    first, second, x = make(name), make(name), binary(7)

    def draw(guide):
        torch.manual_seed(0)
        return guide(x)

    assert not torch.equal(draw(first), draw(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(draw(first), draw(second))


@every_guide
def test_gradient_reaches_every_parameter(name):
    guide = make(name)
    (-log_weights(model_for(), guide, binary(20), 2).sum()).backward()
    for parameter, value in guide.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.abs().sum() > 0, parameter


@every_guide
@every_dtype
def test_it_survives_being_captured_with_its_gradient(name, dtype):
    model, guide = model_for(dtype), make(name, dtype)
    x, other = binary(4, dtype), binary(4, dtype)
    pair = Pair(model, guide, x)
    assert isinstance(pair.layout, OuterPlate)

    def step(x):
        weights = pair.terms(x, 3).log_weight
        return [weights.detach(), *torch.autograd.grad(weights.sum(), list(guide.parameters()))]

    graph = capture(step, [x], [other], [model, guide])
    torch.manual_seed(2)
    expected = step(other)
    torch.manual_seed(2)
    assert_close(graph(other), expected)


COMPILED_EACH_TIME = ("AuxiliaryGuide", "InverseAutoregressiveGuide", "MeanFieldGuide")
"""The rest takes minutes."""


@pytest.mark.parametrize(
    "name",
    [name if name in COMPILED_EACH_TIME else pytest.param(name, marks=pytest.mark.slow) for name in guides.__all__],
)
def test_compiled_weights_equal_those_of_pyro_under_a_seed(name, caplog):
    """To 1e-5, some eighty roundings of float32: a log-weight is a sum of ten terms or more that partly cancel."""
    model, guide, x = model_for(), make(name), binary(6)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        expected, found = (log_likelihood(model, guide, x, 300, seed=4, compile=level) for level in ("off", "inductor"))
    assert [record for record in caplog.records if record.name == "pyro_vae"] == []
    assert_close(found.per_datum, expected.per_datum, rtol=1e-5, atol=1e-5)
    assert_close(found.ess, expected.ess, rtol=1e-3, atol=0)


@every_guide
def test_the_parameter_store_stays_empty(name):
    log_weights(model_for(), make(name), binary(4))
    assert len(pyro.get_param_store()) == 0


@with_an_encoder
def test_an_encoder_with_the_wrong_number_of_features_is_told_so(name):
    guide = make(name)
    guide.encoder = nn.Linear(6, 3)
    with pytest.raises(ValueError, match=rf"{name}: `encoder` must return \d+ \(location\) \+ .* features; got shape"):
        guide(binary(4))


@every_guide
def test_wrong_shapes_and_dtypes_are_refused(name):
    guide = make(name)
    for bad in (torch.zeros(4, 6), torch.zeros(X_SHAPE), torch.zeros(4, 1, 2, 3)):
        with pytest.raises(ValueError, match=rf"{name}: x must have shape \(batch, 1, 3, 2\); got"):
            guide(bad)
    with pytest.raises(ValueError, match=f"{name}: x must be floating point; got torch.int64"):
        guide(torch.zeros(4, *X_SHAPE, dtype=torch.int64))
