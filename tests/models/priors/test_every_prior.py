"""What every prior owes. A prior without an entry below fails; it is not skipped."""

import pyro
import pytest
import torch
from torch.distributions import Distribution
from torch.testing import assert_close

from pyro_vae.graphs.capture import capture
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE, priors
from pyro_vae.programs.layouts import OuterPlate
from pyro_vae.programs.pair import Pair
from pyro_vae.protocols import Prior

X_SHAPE, LATENT_DIM = (1, 3, 2), 4


def flow():
    """One that has left its start, at which it is the standard normal."""
    prior = priors.FlowPrior(LATENT_DIM, 3, (5,))
    for layer in prior.layers:
        torch.nn.init.normal_(layer.network.output.weight, std=0.3)
    return prior


def vamp():
    return priors.VampPrior(LATENT_DIM, MeanFieldGuide(X_SHAPE, LATENT_DIM, (5,)), torch.rand(9, *X_SHAPE), 3)


MAKE = {
    "FlowPrior": flow,
    "GaussianMixturePrior": lambda: priors.GaussianMixturePrior(LATENT_DIM, 3),
    "StandardNormalPrior": lambda: priors.StandardNormalPrior(LATENT_DIM),
    "StudentTPrior": lambda: priors.StudentTPrior(LATENT_DIM, df=7.0),
    "VampPrior": vamp,
}


def make(name):
    assert name in MAKE, f"prior {name} has no entry in MAKE of {__file__}"
    return MAKE[name]()


def test_every_prior_is_here():
    assert set(priors.__all__) == set(MAKE)


every_prior = pytest.mark.parametrize("name", priors.__all__)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_prior
@every_dtype
def test_shape_and_dtype(name, dtype):
    prior = make(name).to(dtype)
    assert isinstance(prior, Prior)
    p = prior()
    assert isinstance(p, Distribution)
    assert (p.batch_shape, p.event_shape) == ((), (LATENT_DIM,))
    z = p.sample((3, 5))
    assert (z.shape, z.dtype) == ((3, 5, LATENT_DIM), dtype)
    assert (p.log_prob(z).shape, p.log_prob(z).dtype) == ((3, 5), dtype)
    assert p.expand((6,)).batch_shape == (6,)


@every_prior
def test_state_dict_round_trip(name):
    first, second = make(name), make(name)
    second.load_state_dict(first.state_dict())
    z = first().sample((5,))
    assert_close(second().log_prob(z), first().log_prob(z), rtol=0, atol=0)


@every_prior
def test_gradient_reaches_z_and_every_parameter(name):
    prior = make(name)
    z = prior().sample((50,)).requires_grad_()
    prior().log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())


@every_prior
def test_the_density_integrates_to_one(name):
    """E_q[p(z) / q(z)] = 1 with a Student-t as q, wider than p's draws; 200000 draws, 4 standard errors."""
    p = make(name).double()()
    draws = p.sample((10_000,))
    q = torch.distributions.Independent(
        torch.distributions.StudentT(torch.tensor(5.0).double(), draws.mean(0), 1.5 * draws.std(0)), 1
    )
    z = q.sample((200_000,))
    ratio = (p.log_prob(z) - q.log_prob(z)).exp()
    assert abs(ratio.mean().item() - 1) < 4 * (ratio.std() / len(ratio) ** 0.5).item()


@every_prior
@every_dtype
def test_it_survives_being_captured_with_its_gradient(name, dtype):
    prior, guide = make(name).to(dtype), MeanFieldGuide(X_SHAPE, LATENT_DIM, (5,)).to(dtype)
    x, other = torch.rand(2, 4, *X_SHAPE, dtype=dtype).round()
    pair = Pair(VAE(X_SHAPE, LATENT_DIM, (5,), prior=prior).to(dtype), guide, x)
    assert isinstance(pair.layout, OuterPlate)
    parameters = list(prior.parameters()) + list(guide.parameters())

    def step(x):
        weights = pair.terms(x, 3).log_weight
        return [weights.detach(), *torch.autograd.grad(weights.sum(), parameters)]

    graph = capture(step, [x], [other], [pair.model, guide])
    torch.manual_seed(2)
    expected = step(other)
    torch.manual_seed(2)
    assert_close(graph(other), expected)


@every_prior
def test_an_expanded_prior_keeps_its_validation(name):
    with pyro.validation_enabled(True):
        p = make(name)()
    for q in (p, p.expand((6,))):
        with pytest.raises(ValueError, match="support"):
            q.log_prob(torch.full((6, LATENT_DIM), torch.nan))
