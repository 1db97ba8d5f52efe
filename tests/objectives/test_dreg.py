"""DReG: the doubly reparameterized gradient by its formula; its expectation is in test_iwae.py."""

import torch
from gaussian_toy import Toy
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, DReG


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
