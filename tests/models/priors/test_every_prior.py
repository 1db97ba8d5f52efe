"""What every prior owes. A prior without an entry below fails; it is not skipped."""

import pytest
import torch
from torch.distributions import Distribution
from torch.testing import assert_close

from pyro_vae.models import priors
from pyro_vae.protocols import Prior

LATENT_DIM = 4

MAKE = {
    "GaussianMixturePrior": lambda: priors.GaussianMixturePrior(LATENT_DIM, 3),
    "StandardNormalPrior": lambda: priors.StandardNormalPrior(LATENT_DIM),
    "StudentTPrior": lambda: priors.StudentTPrior(LATENT_DIM, df=7.0),
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
    """E_q[p(z) / q(z)] = 1 with a wide Student-t as q; 200000 draws, 4 standard errors."""
    p = make(name).double()()
    q = torch.distributions.Independent(
        torch.distributions.StudentT(torch.tensor(5.0).double(), p.mean, 1.5 * p.variance.sqrt()),
        1,
    )
    z = q.sample((200_000,))
    ratio = (p.log_prob(z) - q.log_prob(z)).exp()
    assert abs(ratio.mean().item() - 1) < 4 * (ratio.std() / len(ratio) ** 0.5).item()
