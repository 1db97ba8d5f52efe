"""Reweighted wake-sleep by hand, datum by datum, and where its expectation is known."""

import math

import pyro
import pytest
import torch
from gaussian_toy import SCALE, Toy, z_scores
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, ReweightedWakeSleep
from pyro_vae.testing import ObjectiveSuite


def wake(toy, noise):
    """The self-normalised weights times the guide's score, by hand."""
    z = (toy.loc + toy.log_scale.exp() * noise).detach()
    normalized = toy.log_weight(noise).detach().softmax(0)
    return (normalized * dist.Normal(toy.loc, toy.log_scale.exp()).log_prob(z).sum(-1)).sum()


def test_wake_phi_by_hand_and_the_model_as_iwae():
    toy = Toy(6)
    loc, log_scale, shift = toy.gradients(ReweightedWakeSleep(5))
    exact = torch.autograd.grad(wake(toy, toy.noise(5)), [toy.loc, toy.log_scale])
    assert_close(loc, exact[0], rtol=1e-10, atol=1e-10)
    assert_close(log_scale, exact[1], rtol=1e-10, atol=1e-10)
    assert_close(shift, toy.gradients(IWAE(5))[2], rtol=1e-10, atol=1e-10)


def dream(toy):
    """The score of latents that the model drew: q is not amortized here, so only z matters."""
    z = torch.randn(*toy.loc.shape, dtype=torch.float64)
    return dist.Normal(toy.loc, toy.log_scale.exp()).log_prob(z).sum()


def test_sleep_phi_by_hand_alone_and_mixed():
    toy = Toy(6)
    torch.manual_seed(0)
    noise = torch.randn(5, 6, 2, dtype=torch.float64)
    wanted = [torch.autograd.grad(f, [toy.loc, toy.log_scale]) for f in (wake(toy, noise), dream(toy))]
    for insomnia in (0.0, 0.3):
        found = toy.gradients(ReweightedWakeSleep(5, insomnia))
        for i in range(2):
            exact = insomnia * wanted[0][i] + (1 - insomnia) * wanted[1][i]
            assert_close(found[i], exact, rtol=1e-10, atol=1e-10)


class Amortized:
    """The toy's model, and q(z | x) = N(slope x, scale^2)."""

    def __init__(self):
        precision = 1 + SCALE**-2
        self.slope = torch.tensor(SCALE**-2 / precision, dtype=torch.float64, requires_grad=True)
        self.log_scale = torch.tensor(-0.5 * math.log(precision), dtype=torch.float64, requires_grad=True)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, torch.tensor(SCALE, dtype=torch.float64)), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()))


def test_sleep_phi_dreams_data_too_and_rests_at_the_posterior():
    """200 batches of 500 dreams: mean 0 within 4 standard errors where q is exact, and not where it is off."""
    pair, x = Amortized(), torch.zeros(500).double()

    def draws():
        rows = []
        for seed in range(200):
            torch.manual_seed(seed)
            loss = ReweightedWakeSleep(1, insomnia=0.0).differentiable_loss(pair.model, pair.guide, x)
            rows.append(torch.stack(torch.autograd.grad(loss, [pair.slope, pair.log_scale])))
        return z_scores(torch.stack(rows), torch.zeros(2))

    assert (draws().abs() < 4).all()
    with torch.no_grad():
        pair.slope += 0.1
    assert draws()[0].abs() > 10


def test_a_batch_is_its_data_one_by_one():
    """Weights are normalised for each datum: the same noise, alone or in a batch."""
    toy = Toy(2)
    with torch.no_grad():
        toy.loc[1] += 3
    both = toy.gradients(ReweightedWakeSleep(5))
    noise = toy.noise(5)
    for row in range(2):
        alone = Toy(1, loc=toy.loc[row, 0].item())
        exact = torch.autograd.grad(wake(alone, noise[:, row : row + 1]), alone.loc)[0]
        assert_close(both[0][row], exact[0], rtol=1e-10, atol=1e-10)


def test_a_sleep_phase_without_data_to_dream_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("pixels", dist.Normal(z, 1.0), obs=2 * x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"observes pixels\. .*insomnia=1"):
        ReweightedWakeSleep(2, insomnia=0.5).tensor_loss(model, guide, torch.zeros(3))


def test_auxiliary_sites_are_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(v, 1.0))

    with pytest.raises(ValueError, match=r"must be closed; .*sites v\."):
        ReweightedWakeSleep(2).tensor_loss(Amortized().model, guide, torch.zeros(3).double())


@pytest.mark.parametrize("insomnia", [-0.1, 1.1])
def test_insomnia_outside_the_unit_interval_is_refused(insomnia):
    with pytest.raises(ValueError, match="insomnia must be from 0 to 1"):
        ReweightedWakeSleep(2, insomnia)


class TestContract(ObjectiveSuite):
    part = "reweighted_wake_sleep(num_particles=3, insomnia=0.5)"
