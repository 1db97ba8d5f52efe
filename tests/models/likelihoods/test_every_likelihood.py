"""What every likelihood owes. A likelihood without an entry below fails; it is not skipped."""

import pytest
import torch
from torch.distributions import Distribution
from torch.testing import assert_close

from pyro_vae.graphs.capture import capture
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE, likelihoods
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Likelihood

X_SHAPE, LATENT_DIM = (1, 3, 2), 4

MAKE = {
    "BernoulliLikelihood": lambda: likelihoods.BernoulliLikelihood(X_SHAPE, LATENT_DIM, (5,)),
    "CategoricalLikelihood": lambda: likelihoods.CategoricalLikelihood(X_SHAPE, LATENT_DIM, (5,)),
    "ContinuousBernoulliLikelihood": lambda: likelihoods.ContinuousBernoulliLikelihood(X_SHAPE, LATENT_DIM, (5,)),
    "DiscretizedLogisticLikelihood": lambda: likelihoods.DiscretizedLogisticLikelihood(X_SHAPE, LATENT_DIM, (5,)),
    "GaussianLikelihood": lambda: likelihoods.GaussianLikelihood(X_SHAPE, LATENT_DIM, (5,)),
}


def make(name):
    assert name in MAKE, f"likelihood {name} has no entry in MAKE of {__file__}"
    return MAKE[name]()


def test_every_likelihood_is_here():
    assert set(likelihoods.__all__) == set(MAKE)


every_likelihood = pytest.mark.parametrize("name", likelihoods.__all__)


@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (5,), (3, 5)])
def test_shape_and_dtype(name, dtype, batch):
    likelihood = make(name).to(dtype)
    assert isinstance(likelihood, Likelihood)
    p = likelihood(torch.randn(*batch, LATENT_DIM, dtype=dtype))
    assert isinstance(p, Distribution)
    assert (p.batch_shape, p.event_shape) == (batch, X_SHAPE)
    x = p.sample()
    assert (x.shape, x.dtype) == ((*batch, *X_SHAPE), dtype)
    assert (p.log_prob(x).shape, p.log_prob(x).dtype) == (batch, dtype)


@every_likelihood
def test_a_datum_depends_on_its_own_z_alone(name):
    likelihood = make(name).double()
    z = torch.randn(5, LATENT_DIM, dtype=torch.float64)
    x = likelihood(z).sample()
    alone = torch.stack([likelihood(z[n]).log_prob(x[n]) for n in range(5)])
    assert_close(likelihood(z).log_prob(x), alone, rtol=1e-12, atol=1e-12)


@every_likelihood
def test_state_dict_round_trip(name):
    first, second = make(name), make(name)
    z = torch.randn(5, LATENT_DIM)
    x = first(z).sample()
    assert not torch.equal(second(z).log_prob(x), first(z).log_prob(x))
    second.load_state_dict(first.state_dict())
    assert_close(second(z).log_prob(x), first(z).log_prob(x), rtol=0, atol=0)


@every_likelihood
def test_gradient_reaches_z_and_every_parameter(name):
    likelihood = make(name)
    z = torch.randn(20, LATENT_DIM, requires_grad=True)
    likelihood(z).log_prob(likelihood(z).sample()).sum().backward()
    assert (z.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in likelihood.parameters())


@every_likelihood
def test_the_bias_starts_at_the_mean(name):
    likelihood, mean = make(name).double(), torch.tensor([0.1, 0.25, 0.5, 0.6, 0.75, 0.9]).double().reshape(X_SHAPE)
    likelihood.initialize_bias(mean)
    torch.nn.init.zeros_(likelihood.decoder.output.weight)
    assert_close(likelihood(torch.zeros(LATENT_DIM).double()).mean, mean, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=rf"{name}: mean must have shape \(1, 3, 2\); got \(6,\)"):
        likelihood.initialize_bias(mean.flatten())


@every_likelihood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_survives_being_captured_with_its_gradient(name, dtype):
    likelihood, guide = make(name).to(dtype), MeanFieldGuide(X_SHAPE, LATENT_DIM, (5,)).to(dtype)
    x, other = likelihood(torch.randn(2, 4, LATENT_DIM, dtype=dtype)).sample()
    pair = Pair(VAE(X_SHAPE, LATENT_DIM, likelihood=likelihood), guide, x)
    assert isinstance(pair.layout, OuterPlate)

    def step(x):
        weights = pair.terms(x, 3).log_weight
        return [weights.detach(), *torch.autograd.grad(weights.sum(), list(likelihood.parameters()))]

    graph = capture(step, [x], [other], [pair.model, guide])
    torch.manual_seed(2)
    expected = step(other)
    torch.manual_seed(2)
    assert_close(graph(other), expected)
