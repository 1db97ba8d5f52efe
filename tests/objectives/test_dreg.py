"""DReG: the doubly reparameterized gradient by its formula; its expectation is in test_iwae.py."""

import numpy as np
import pyro
import pytest
import torch
from gaussian_toy import Toy, z_scores
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, PIWAE, DReG, ReweightedWakeSleep
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.testing import ObjectiveSuite


def test_the_guides_gradient_is_the_papers_formula():
    toy = Toy(6)
    noise = toy.noise(5)
    normalized = toy.log_weight(noise).detach().softmax(0)

    def path(w):
        """log w with q's parameters held fixed, by a second toy that is not differentiated."""
        z = toy.loc + toy.log_scale.exp() * noise
        fixed = Toy(6)
        epsilon = (z - fixed.loc.detach()) / fixed.log_scale.exp().detach()
        for value in fixed.parameters():
            value.requires_grad_(False)
        return (normalized.square() * fixed.log_weight(epsilon)).sum(0)

    loc, log_scale, _ = toy.autograd(lambda w: path(w) + 0 * w.sum(0), noise)
    found = toy.gradients(DReG(5))
    assert_close(found[0], loc, rtol=1e-10, atol=1e-10)
    assert_close(found[1], log_scale, rtol=1e-10, atol=1e-10)


def test_the_loss_and_the_models_gradient_are_iwaes():
    toy = Toy(6)
    assert_close(toy.gradients(DReG(5))[2], toy.gradients(IWAE(5))[2], rtol=1e-12, atol=1e-12)
    losses = []
    for objective in (DReG(5), IWAE(5)):
        torch.manual_seed(0)
        losses.append(objective.loss(toy.model, toy.guide, toy.x))
    assert abs(losses[0] - losses[1]) < 1e-12


def test_there_is_no_noise_at_the_posterior():
    loc, log_scale, _ = Toy(50).at_the_posterior().gradients(DReG(5))
    assert_close(loc, torch.zeros_like(loc), atol=1e-12, rtol=0)
    assert_close(log_scale, torch.zeros_like(log_scale), atol=1e-12, rtol=0)


def by_quadrature(log_weight):
    """The gradient of E[log mean w] for two particles of one dim, by Gauss-Hermite over both."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = torch.tensor(np.stack(np.meshgrid(points, points)).reshape(2, -1, 1))
    mass = torch.tensor(np.outer(weights, weights).flatten() / weights.sum() ** 2)
    fine = Toy(len(mass), dims=1)
    z = fine.loc + fine.log_scale.exp() * grid
    total = (mass * (log_weight(fine, z).logsumexp(0) - np.log(2))).sum()
    return [value.sum() for value in torch.autograd.grad(total, [fine.loc, fine.log_scale])]


def terms(toy, z):
    likelihood = dist.Normal(z + toy.shift, 0.8).log_prob(toy.x).sum(-1)
    q = dist.Normal(toy.loc, toy.log_scale.exp())
    return likelihood, (dist.Normal(toy.zeros, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)


@pytest.mark.parametrize("beta", [0.3, 4.0])
def test_it_is_unbiased_under_a_kl_weight(beta):
    """Against quadrature; 100 000 draws, 4 standard errors."""

    def log_weight(toy, z):
        likelihood, minus_rate = terms(toy, z)
        return likelihood + beta * minus_rate

    many = Toy(100_000, dims=1)
    with KLWeight(torch.tensor(beta).double()):
        draws = many.gradients(DReG(2))[:2]
    for found, exact in zip(draws, by_quadrature(log_weight), strict=True):
        assert abs(z_scores(found, exact)) < 4


def test_it_is_unbiased_where_a_mask_hides_a_latent_that_the_decoder_reads():
    """log q is drawn from, and not in the weights: quadrature, 100 000 draws, 4 standard errors."""
    many = Toy(100_000, dims=1)
    hidden = torch.zeros(100_000, dtype=torch.bool)

    def model(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=hidden):
                z = pyro.sample("z", dist.Normal(many.zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + many.shift, 0.8).to_event(1), obs=x)

    loss = DReG(2).differentiable_loss(model, pyro.poutine.mask(many.guide, mask=hidden), many.x)
    draws = torch.autograd.grad(-loss, [many.loc, many.log_scale])
    for found, exact in zip(draws, by_quadrature(lambda toy, z: terms(toy, z)[0]), strict=True):
        assert abs(z_scores(found, exact)) < 4


def test_sites_with_different_masks_are_refused():
    def program(x, observe=False):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.poutine.mask(mask=torch.tensor(False)):
                pyro.sample("b", dist.Normal(a, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    with pytest.raises(ValueError, match="different masks"):
        DReG(2).differentiable_loss(lambda x: program(x, observe=True), program, torch.zeros(3).double())


def test_a_sample_without_mass_has_no_part_in_the_gradient():
    """Under a prior on [0, 2]; a weight of 0 times a logarithm of -inf is 0."""
    toy = Toy(6, loc=0.1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(toy.zeros, 2.0, validate_args=False).to_event(1))
            pyro.sample("x", dist.Normal(z + toy.shift, 0.8).to_event(1), obs=x)

    for objective in (DReG(200), PIWAE(1, 200), ReweightedWakeSleep(200)):
        loss = objective.differentiable_loss(model, toy.guide, toy.x)
        assert loss.isfinite()
        assert all(value.isfinite().all() for value in torch.autograd.grad(loss, toy.parameters()))


class TestContract(ObjectiveSuite):
    part = "dreg(num_particles=3)"
    needs_reparameterized_samples = True
