"""Bits per dimension agree with nats, and are told where they mean something only."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_vae import elbo_terms, log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
)
from pyro_vae.programs.pair import Pair

X_SHAPE = (1, 3, 2)


def evaluate(likelihood, x):
    model, guide = VAE(X_SHAPE, 2, likelihood=likelihood(X_SHAPE, 2, (4,))), MeanFieldGuide(X_SHAPE, 2, (4,))
    return [function(model, guide, x, 30, seed=0) for function in (elbo_terms, log_likelihood)]


@pytest.mark.parametrize("likelihood", [DiscretizedLogisticLikelihood, CategoricalLikelihood])
def test_bits_and_their_errors_are_nats_over_elements_and_log_two(likelihood):
    for result in evaluate(likelihood, torch.randint(256, (20, *X_SHAPE)) / 255):
        bits, nats, in_nats = result.bits_per_dim, 6 * math.log(2), result.log_probability()
        assert bits.mean == float(bits) == pytest.approx(-in_nats.mean / nats, rel=1e-15)
        assert bits.standard_error == pytest.approx(in_nats.standard_error / nats, rel=1e-15)
        assert bits.data_standard_error == pytest.approx(in_nats.data_standard_error / nats, rel=1e-15)
        assert (bits.unit, bits.datum) == ("bits/dim", "image")
        assert f"; {bits.mean:.3f} bits/dim (Monte Carlo s.e. " in str(result)
        assert "; D = 6)" in str(result)
        assert str(result).count("nats/image") == 1
        assert result.summary()[result.bits_name] == bits.summary()


def test_a_uniform_code_of_256_levels_takes_eight_bits():
    """Equal logits: log p(x | z) = -D log 256 whatever z, and the guide is the prior, so no bit is lost."""
    likelihood, guide = CategoricalLikelihood(X_SHAPE, 2, ()), MeanFieldGuide(X_SHAPE, 2, ())
    for part in (likelihood, guide):
        for parameter in part.parameters():
            torch.nn.init.zeros_(parameter)
    model = VAE(X_SHAPE, 2, likelihood=likelihood)
    for function in (elbo_terms, log_likelihood):
        result = function(model, guide, torch.randint(256, (20, *X_SHAPE)) / 255, 30)
        assert float(result.bits_per_dim) == pytest.approx(8, rel=1e-6)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, ContinuousBernoulliLikelihood, GaussianLikelihood])
def test_densities_and_binary_pixels_are_told_in_nats_alone(likelihood):
    for result in evaluate(likelihood, torch.rand(20, *X_SHAPE).round()):
        assert result.bits_per_dim is None
        assert "bits" not in str(result)
        assert not any("bits" in name for name in result.summary())


@pytest.mark.parametrize(
    ("observe", "dims"),
    [
        (lambda z: [dist.Poisson(z.exp())], 5),
        (lambda z: [dist.Categorical(logits=torch.zeros(7)).expand(z.shape)], 5),
        (lambda z: [dist.Poisson(z.exp()).mask(z > 0)], None),
        (lambda z: [dist.Poisson(z.exp()), dist.Normal(z, 1.0)], None),
        (lambda z: [dist.Poisson(z.exp()), dist.Poisson(1 + z.exp())], 10),
        (lambda z: [dist.OneHotCategorical(logits=torch.zeros(5)).expand(z.shape[:-1])], None),
    ],
)
def test_elements_are_counted_over_all_sites_where_all_are_discrete(observe, dims):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            for index, p in enumerate(observe(z)):
                value = torch.nn.functional.one_hot(x[:, 0].long(), 5).float() if p.event_shape else x
                pyro.sample(f"x{index}", p.to_event(1 - len(p.event_shape)), obs=value)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))

    assert Pair(model, guide, torch.randint(5, (9, 5)).float()).discrete_dims == dims


def test_masked_data_differ_in_their_number_of_elements():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            with pyro.poutine.mask(mask=x[:, 0] > 1):
                pyro.sample("x", dist.Poisson(z.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))

    assert Pair(model, guide, torch.randint(5, (9, 5)).float()).discrete_dims is None
