"""Log-probabilities in float64 against the same laws made of float64 parameters, and when a pair asks for them."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.distributions.transforms import Planar
from torch.testing import assert_close

from pyro_vae import log_weights
from pyro_vae.guides import MeanFieldGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import CategoricalLikelihood, GaussianLikelihood
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.precision import Rounding, log_prob_in_float64

LOC, SCALE = 100 * torch.randn(3, 400, generator=torch.Generator().manual_seed(1)), torch.linspace(0.1, 2, 400)
POSITIVE = LOC.abs() + 0.1
PROBS = torch.linspace(0.01, 0.99, 400)
MASK = PROBS < 0.5


def laws(dtype):
    """Laws and values whose float32 log-probabilities are off by up to whole nats."""
    loc, scale, positive, probs = (value.to(dtype) for value in (LOC, SCALE, POSITIVE, PROBS))
    count, bins = (1e5 * positive).round(), (1e3 * positive[0]).round()
    return {
        "sum over elements": (dist.Normal(loc, scale).to_event(1), -loc),
        "sum over a plate": (dist.Normal(loc, scale), -loc),
        "mask": (dist.Normal(loc, scale).mask(MASK).to_event(1), -loc),
        "mask without effect": (dist.Normal(loc, scale).mask(True).to_event(1), -loc),
        "expanded": (dist.StudentT(scale, 1.0).expand_by([3]).to_event(1), loc),
        "Pyro's expanded": (
            dist.torch_distribution.ExpandedDistribution(dist.Normal(loc, scale), torch.Size([2, 3, 400])).to_event(1),
            -loc,
        ),
        "logits": (dist.Bernoulli(logits=loc).to_event(1), (loc > 0).to(dtype)),
        "counts": (dist.Poisson(1e5 * positive).to_event(1), count),
        "many counts of one": (dist.Multinomial(int(bins.sum()), logits=scale), bins),
        "full rank": (dist.MultivariateNormal(loc, scale_tril=torch.diag(scale)), -loc),
        "low rank": (dist.LowRankMultivariateNormal(loc, scale.unsqueeze(-1), scale), -loc),
        "positive": (dist.LogNormal(loc, scale).to_event(1), positive),
        "beta": (dist.Beta(100 * positive, scale).to_event(1), probs.expand(3, -1)),
        "mixture": (
            dist.MixtureSameFamily(dist.Categorical(logits=scale), dist.Normal(loc, scale)),
            torch.tensor([4.0, -500.0, 9.0], dtype=dtype),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", laws(torch.float64))
def test_it_is_the_law_of_float64_parameters(name):
    """Parameters are the float32 ones in both; a law built anew in float64 repeats 1e5 * positive with more digits."""
    law, value = laws(torch.float32)[name]
    wide_law, wide_value = laws(torch.float64)[name]
    found = log_prob_in_float64(law, value)
    expected = wide_law.log_prob(wide_value)
    assert found.dtype == torch.float64
    assert found.shape == law.log_prob(value).shape
    # Normalisers that a law's constructor takes in float32, as of logits, stay as they are.
    assert_close(found, expected, rtol=2e-7, atol=1e-3)
    assert_close(law.log_prob(value).double(), expected, rtol=1e-4, atol=1e-2 if name != "counts" else 200.0)


def test_elements_keep_their_digits():
    law, value = laws(torch.float32)["counts"]
    rate, count = law.base_dist.rate.double(), value.double()
    expected = (count * rate.log() - rate - (count + 1).lgamma()).sum(-1)
    assert_close(log_prob_in_float64(law, value), expected, rtol=1e-12, atol=1e-6)
    # Each float32 element is a difference of millions.
    assert (law.log_prob(value) - expected).abs().max() > 1


@pytest.mark.parametrize("law", [dist.Bernoulli, lambda probs: dist.Binomial(1, probs)])
def test_probabilities_are_clipped_as_the_program_clips_them(law):
    p = law(probs=torch.tensor([0.0, 0.25, 1.0]))
    x = torch.tensor([1.0, 1.0, 0.0])
    assert_close(log_prob_in_float64(p, x), p.log_prob(x).double(), rtol=1e-5, atol=1e-5)


def test_a_flow_that_knows_only_its_own_draws_is_scored():
    flow = dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), [Planar(3)])
    z = flow.sample()
    with torch.no_grad():
        assert_close(log_prob_in_float64(flow, z), flow.log_prob(z).double())
        assert_close(log_prob_in_float64(flow.mask(torch.tensor(True)), z), flow.log_prob(z).double())


def test_a_law_of_somebodys_own():
    class Shouting(dist.Normal):
        def __init__(self, loc):
            super().__init__(loc, 1.0, validate_args=False)
            self.shout = print

    p = Shouting(torch.zeros(5)).to_event(1)
    assert_close(log_prob_in_float64(p, torch.ones(5)), torch.tensor(-5 * (0.5 + 0.5 * math.log(2 * math.pi))).double())


def test_a_slope_reaches_float32_parameters():
    loc = torch.zeros(5, requires_grad=True)
    log_prob_in_float64(dist.Normal(loc, 1.0).to_event(1), torch.arange(5.0)).backward()
    assert_close(loc.grad, torch.arange(5.0))


def test_ordinary_pairs_compute_in_their_own_dtype():
    x = torch.rand(7, 1, 28, 28).round()
    assert not Pair(VAE((1, 28, 28)), MeanFieldGuide((1, 28, 28)), x).wide
    assert log_weights(VAE((1, 28, 28)), PlanarGuide((1, 28, 28)), x).dtype == torch.float32
    grey = VAE((1, 28, 20), latent_dim=2, likelihood=CategoricalLikelihood((1, 28, 20), 2))
    assert not Pair(grey, MeanFieldGuide((1, 28, 20), 2), torch.zeros(7, 1, 28, 20)).wide


def test_large_weights_are_summed_in_float64():
    x = 255 * torch.rand(7, 1, 28, 28)
    model = VAE((1, 28, 28), latent_dim=2, likelihood=GaussianLikelihood((1, 28, 28), 2, scale=1.0))
    guide = MeanFieldGuide((1, 28, 28), 2)
    assert Pair(model, guide, x).wide
    torch.manual_seed(1)
    found = log_weights(model, guide, x, num_samples=3)
    torch.manual_seed(1)
    with pyro.plate("samples", 3, dim=-2):
        z = guide(x)
    q, prior = guide.posterior(x).log_prob(z), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    p = model.likelihood(z).base_dist
    expected = torch.distributions.Normal(p.loc.double(), 1.0).log_prob(x.double()).sum((-1, -2, -3)) + prior - q
    assert found.dtype == torch.float64
    # The prior and q are of a few nats, in float32 here.
    assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_loss_stays_in_the_parameters_dtype():
    x = 255 * torch.rand(7, 1, 28, 28)
    model = VAE((1, 28, 28), latent_dim=2, likelihood=GaussianLikelihood((1, 28, 28), 2, scale=1.0))
    run = Pair(model, MeanFieldGuide((1, 28, 28), 2), x).run(x, 2)[0]
    assert run.terms().log_weight.dtype == torch.float64
    assert run.scaled_terms()[0].log_weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roundings_are_those_that_a_sum_shows(dtype):
    """Of log p = -(x - z)^2 / 2 with x = 1000, |z| < 5: one rounding of z, of up to 2 eps, times |x - z|."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=dtype), 1.0))

    x = torch.full((100,), 1000.0, dtype=dtype)
    error, magnitude = Pair(model, guide, x).roundings(x)
    eps = torch.finfo(dtype).eps
    assert error.shape == magnitude.shape == (100,)
    assert (500 * eps < error.max() < 5e5 * 4 * eps).item()
    assert_close(magnitude, torch.full((100,), 5e5, dtype=torch.float64), rtol=0.01, atol=0)


def test_roundings_grow_with_the_weight():
    weights = torch.tensor([1.0, -100.0, -1000.0, -math.inf])
    error, magnitude = (
        torch.tensor([0.01, 0.01, 0.01, 0.02]).double(),
        torch.tensor([100.0, 100.0, 100.0, 1e3]).double(),
    )
    rounding = Rounding(error, magnitude)
    assert_close(rounding.of(weights, slice(None)), torch.tensor([0.01, 0.01, 0.1, 0.02]).double())
    found = rounding.of(weights, torch.tensor([3, 0, 3, 1]))
    assert_close(found, torch.tensor([0.02, 0.01, 0.02, 0.01]).double())
    assert rounding.lost(1000 * weights, slice(None)).tolist() == [False, True, True, False]
