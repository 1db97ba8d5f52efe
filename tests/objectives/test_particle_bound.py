"""What bounds made of importance weights share: scores, scales, modes, copies and arguments."""

import copy
import pickle

import pyro
import pytest
import torch
from gaussian_toy import Toy, z_scores
from pyro import distributions as dist

from pyro_vae.objectives import IWAE, StickingTheLanding


def test_a_guide_factor_that_is_not_reparameterized_gets_its_score():
    """A density given as a factor, of values that carry no gradient: the ELBO's is x - 2 mu; 100 000 draws, 4 s.e."""
    mu = torch.full((100_000,), 0.4, dtype=torch.float64, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        q = dist.Normal(mu[: len(x)], 1.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Delta(q.sample()))
            pyro.factor("density", q.log_prob(z), has_rsample=False)

    x = torch.full((100_000,), 1.3).double()
    (draws,) = torch.autograd.grad(-IWAE(1).differentiable_loss(model, guide, x), mu)
    assert abs(z_scores(draws, x[0] - 0.8)) < 4
    with pytest.raises(ValueError, match="site 'density' has none"):
        StickingTheLanding().differentiable_loss(model, guide, x)


def test_observed_sites_with_different_scales_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            with pyro.poutine.scale(scale=0.1):
                pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match="sites carry different scales"):
        IWAE(2).loss(model, guide, torch.zeros(3))


def test_each_mode_is_looked_at_by_itself():
    """In training, batch norm couples the samples and they are run one by one; in evaluation it does not."""
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)).double()
    toy, objective = Toy(6), IWAE(3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(toy.zeros, 1.0).to_event(1))
            mean = decoder(z.reshape(-1, 2)).reshape(z.shape)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    decoder.eval()
    objective.loss(model, toy.guide, toy.x)
    decoder.train()
    objective.loss(model, toy.guide, toy.x)
    assert [pair.vectorizes for pair in objective._pairs.values()] == [True, False]


def test_a_used_objective_is_pickled_without_its_pair():
    toy, objective = Toy(6), IWAE(3)
    fresh = pickle.dumps(objective)
    torch.manual_seed(0)
    loss = objective.loss(toy.model, toy.guide, toy.x)
    assert len(pickle.dumps(objective)) < len(fresh) + 100
    torch.manual_seed(0)
    assert copy.deepcopy(objective).loss(toy.model, toy.guide, toy.x) == loss


def test_keyword_arguments_reach_both_programs():
    toy = Toy(6)

    def model(x, *, flag):
        assert flag
        toy.model(x)

    def guide(x, *, flag):
        assert flag
        toy.guide(x)

    torch.manual_seed(0)
    found = IWAE(3).loss(model, guide, toy.x, flag=True)
    torch.manual_seed(0)
    assert found == IWAE(3).loss(toy.model, toy.guide, toy.x)
