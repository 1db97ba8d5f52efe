"""The importance-weighted bound: by hand under the same noise, by quadrature, and with discrete latents exactly."""

import itertools

import numpy as np
import pyro
import pytest
import torch
from gaussian_toy import Toy, z_scores
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from pyro_vae.objectives import CIWAE, IWAE, MIWAE, DReG, RenyiBound
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.testing import ObjectiveSuite


def test_one_particle_is_the_elbo():
    toy = Toy(6)
    for found, exact in zip(toy.gradients(IWAE(1)), toy.gradients(Trace_ELBO()), strict=True):
        assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_loss_and_gradient_are_those_of_the_log_mean_exp_of_the_same_noise():
    toy = Toy(6)
    noise = toy.noise(5)

    def bound(w):
        return w.exp().mean(0).log()

    for found, exact in zip(toy.gradients(IWAE(5)), toy.autograd(bound, noise), strict=True):
        assert_close(found, exact, rtol=1e-10, atol=1e-10)
    torch.manual_seed(0)
    loss = IWAE(5).loss(toy.model, toy.guide, toy.x)
    assert loss == pytest.approx(-bound(toy.log_weight(noise)).sum().item(), rel=1e-12)


def test_the_gradient_of_two_particles_is_unbiased_by_quadrature():
    """Gauss-Hermite over both particles of one dim; 40 000 draws, 4 standard errors."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = torch.tensor(np.stack(np.meshgrid(points, points)).reshape(2, -1, 1))
    mass = torch.tensor(np.outer(weights, weights).flatten() / weights.sum() ** 2)
    fine, many = Toy(len(mass), dims=1), Toy(40_000, dims=1)
    exact = [value.sum() for value in fine.autograd(lambda w: mass * (w.logsumexp(0) - np.log(2)), grid)]
    for objective in (IWAE(2), DReG(2)):
        for draws, value in zip(many.gradients(objective), exact, strict=True):
            assert abs(z_scores(draws, value)) < 4


def test_a_subsample_is_outside_the_logarithm_and_a_kl_weight_inside():
    toy, beta = Toy(3), 0.25

    def subsampled(program):
        def run(x):
            with pyro.plate("data", 30, subsample=torch.arange(3)), pyro.poutine.scale(scale=0.5):
                return program(x)

        return run

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + toy.shift, 0.8).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(toy.loc, toy.log_scale.exp()).to_event(1))

    torch.manual_seed(0)
    with KLWeight(torch.tensor(beta).double()):
        loss = IWAE(4).differentiable_loss(subsampled(model), subsampled(guide), toy.x)
    noise = toy.noise(4)
    z = toy.loc + toy.log_scale.exp() * noise
    log_p = dist.Normal(z + toy.shift, 0.8).log_prob(toy.x).sum(-1)
    rate = dist.Normal(torch.zeros(2).double(), 1.0).log_prob(z).sum(-1)
    rate = rate - dist.Normal(toy.loc, toy.log_scale.exp()).log_prob(z).sum(-1)
    exact = -0.5 * 30 / 3 * ((log_p + beta * rate).logsumexp(0) - torch.tensor(4.0).log()).sum()
    assert_close(loss, exact, rtol=1e-6, atol=0)  # Pyro keeps the plate's factor as a float32
    found, by_hand = (torch.autograd.grad(v, toy.parameters(), retain_graph=True) for v in (loss, exact))
    for ours, theirs in zip(found, by_hand, strict=True):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


class Switch:
    """A latent Bernoulli, in as many copies as are asked for: no reparameterization."""

    def __init__(self, rows):
        self.logit = torch.full((rows,), 0.4, dtype=torch.float64, requires_grad=True)
        self.x = torch.full((rows,), 0.9, dtype=torch.float64)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3).double()))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.logit))

    def exact(self, objective, num_samples):
        """The gradient of the bound's expectation over all outcomes of the samples."""
        logit = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        q, total = dist.Bernoulli(logits=logit), 0.0
        for outcome in itertools.product([0.0, 1.0], repeat=num_samples):
            z = torch.tensor(outcome, dtype=torch.float64)
            log_p = dist.Normal(2 * z - 1, 1.0).log_prob(self.x[0]) + dist.Bernoulli(0.3).log_prob(z)
            terms = type("Terms", (), {"log_weight": (log_p - q.log_prob(z))[:, None]})
            total = total + q.log_prob(z).sum().exp() * objective.bound(terms)[0]
        return torch.autograd.grad(total, logit)[0]


@pytest.mark.parametrize("objective", [IWAE(3), RenyiBound(0.5, 3), MIWAE(2, 2), CIWAE(0.3, 3)], ids=lambda o: type(o))
def test_a_discrete_latent_gets_an_unbiased_score_function_gradient(objective):
    """Against all outcomes enumerated; 100 000 draws, 4 standard errors."""
    switch = Switch(100_000)
    loss = objective.differentiable_loss(switch.model, switch.guide, switch.x)
    (draws,) = torch.autograd.grad(-loss, switch.logit)
    exact = switch.exact(objective, objective.total_particles)
    assert abs(exact) > 0.01
    assert abs(z_scores(draws, exact)) < 4


@pytest.mark.slow
def test_signal_to_noise_falls_for_q_and_rises_under_dreg_and_for_the_model():
    """Slopes of log SNR against log K near the optimum: -1/2, 1/2, 1/2 (Rainforth et al. 2018, Tucker et al. 2019).

    20 000 draws for each K of two dims: an SNR is known to 0.005, the smallest here is 0.035, so a slope to 0.03.
    """
    ks = [4, 16, 64, 256]

    def slope(objective, which, away):
        ratios = []
        for k in ks:
            toy = Toy(4000).at_the_posterior()
            with torch.no_grad():
                for value, step in zip(toy.parameters(), (0.5 * away, 0.3 * away, away), strict=True):
                    value += step
            draws = torch.cat([toy.gradients(objective(k), seed)[which] for seed in range(5)])
            ratios.append((draws.mean(0).abs() / draws.std(0)).log().mean().item())
        return np.polyfit(np.log(ks), ratios, 1)[0]

    assert slope(IWAE, 0, away=0.3) == pytest.approx(-0.5, abs=0.1)
    assert slope(DReG, 0, away=0.1) == pytest.approx(0.5, abs=0.1)
    assert slope(IWAE, 2, away=0.1) == pytest.approx(0.5, abs=0.1)


def test_fewer_than_one_particle_is_refused():
    with pytest.raises(ValueError, match="num_particles must be at least"):
        IWAE(0)


class TestContract(ObjectiveSuite):
    part = "iwae(num_particles=3)"
