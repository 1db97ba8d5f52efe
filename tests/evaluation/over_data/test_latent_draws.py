"""Runs over all data: every datum and sample once, in its place."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation.over_data.latent_draws import LatentDraws, by_datum, inner_plates


def pair_of(model, guide, x, num_samples=3, most=None):
    return LatentDraws("here", model, guide, x, num_samples, None, False, most)


@pytest.mark.parametrize(("most", "num_samples"), [(1280, 3), (7, 3), (2, 5)])
def test_every_sample_of_every_datum_comes_once(linear_gaussian, most, num_samples):
    case = linear_gaussian
    x = case.data(5)
    seen = torch.zeros(num_samples, 5)
    for drawn in pair_of(case.model, case.inexact_guide, x, num_samples, most):
        assert drawn.run.shape == (drawn.samples.stop - drawn.samples.start, drawn.data.stop - drawn.data.start)
        seen[drawn.samples, drawn.data] += 1
        observed = drawn.run.model_trace.nodes["x"]
        values = by_datum(drawn.run, observed, observed["value"])
        assert_close(values, x[drawn.data].expand(len(values), -1, -1))
    assert (seen == 1).all()


def nested(x):
    """Two values of z in an inner plate that lies left or right of the data."""
    with pyro.plate("pixels", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.T)


def nested_guide(x):
    loc = torch.stack([x.T, 10 + x.T, 20 + x.T], -1)
    with pyro.plate("pixels", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, 1e-6).to_event(1))


def test_values_have_the_data_next_to_the_samples():
    x = torch.arange(10.0).reshape(5, 2)
    for drawn in pair_of(nested, nested_guide, x):
        site = drawn.run.guide_trace.nodes["z"]
        assert inner_plates(drawn.run, site) == ["pixels"]
        expected = x.unsqueeze(-1) + torch.tensor([0.0, 10.0, 20.0])
        assert_close(by_datum(drawn.run, site, site["value"]), expected.expand(3, -1, -1, -1), rtol=0, atol=1e-4)


def test_a_pair_is_learnt_from_the_data_that_are_finite(linear_gaussian):
    case = linear_gaussian

    def guide(x):
        broken = torch.where(x.sum(-1, keepdim=True) > 1e3, torch.nan, 0.0)
        with pyro.plate("data", len(x), dim=-1):
            q = case.diagonal(x)
            pyro.sample("z", dist.Normal(q.mean + broken, q.stddev).to_event(1))

    x = case.data(6)
    x[1] = 1e4
    draws = pair_of(case.model, guide, x)
    weights = torch.cat([drawn.run.terms().log_weight for drawn in draws], 1)
    assert weights.isnan().any(0).tolist() == [False, True, False, False, False, False]
    with pytest.raises(NonFiniteError, match="site 'z'"):
        pair_of(case.model, guide, x[1:2])


def test_bad_input(linear_gaussian):
    model, guide, x = linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(6)
    with pytest.raises(ValueError, match=r"here: x must be .* got 3"):
        pair_of(model, guide, 3)
    with pytest.raises(ValueError, match="here: x: there are none"):
        pair_of(model, guide, x[:0])
    with pytest.raises(ValueError, match="here: num_samples must be at"):
        pair_of(model, guide, x, 0)

    def some(x):
        with pyro.plate("data", 6, subsample_size=2, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=x[rows])

    def some_guide(x):
        with pyro.plate("data", 6, subsample_size=2, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    with pytest.raises(ValueError, match="here: plate 'data' takes 2 of"):
        pair_of(some, some_guide, torch.zeros(6))
