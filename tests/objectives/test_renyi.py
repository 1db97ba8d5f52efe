"""The Renyi bound by hand and by quadrature; 0 is IWAE, 1 is refused, and it falls as alpha rises."""

import numpy as np
import pytest
import torch
from gaussian_toy import Toy
from torch.testing import assert_close

from pyro_vae.objectives import IWAE, RenyiBound
from pyro_vae.testing import ObjectiveSuite


def losses(objective, toy, seed=0):
    torch.manual_seed(seed)
    return objective.loss(toy.model, toy.guide, toy.x)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_loss_and_gradient_by_hand(alpha):
    toy = Toy(6)
    noise = toy.noise(5)

    def bound(w):
        return ((1 - alpha) * w).exp().mean(0).log() / (1 - alpha)

    for found, exact in zip(toy.gradients(RenyiBound(alpha, 5)), toy.autograd(bound, noise), strict=True):
        assert_close(found, exact, rtol=1e-10, atol=1e-10)
    assert losses(RenyiBound(alpha, 5), toy) == pytest.approx(-bound(toy.log_weight(noise)).sum().item(), rel=1e-12)


def test_alpha_zero_is_iwae_and_it_falls_with_alpha():
    toy = Toy(6)
    values = [losses(RenyiBound(alpha, 5), toy) for alpha in (-1.0, 0.0, 0.5, 0.999, 2.0)]
    assert values[1] == pytest.approx(losses(IWAE(5), toy), rel=1e-12)
    assert values == sorted(values)


def test_many_samples_reach_the_divergence_by_quadrature():
    """The bound with 400 000 samples against Gauss-Hermite, 4 standard errors of the log of a mean."""
    alpha, toy = 0.5, Toy(1, dims=1)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    w = toy.log_weight(torch.tensor(points)[:, None, None])[:, 0].detach()
    exact = torch.tensor(weights / weights.sum()).mul((0.5 * w).exp()).sum().log() / 0.5
    draws = (0.5 * toy.log_weight(toy.noise(400_000))[:, 0].detach()).exp()
    error = draws.std() / draws.mean() / len(draws) ** 0.5 / 0.5
    assert abs(-losses(RenyiBound(alpha, 400_000), toy) - exact) < 4 * error


def test_alpha_one_is_refused():
    with pytest.raises(ValueError, match="alpha must not be 1"):
        RenyiBound(alpha=1)


class TestContract(ObjectiveSuite):
    part = "renyi(alpha=0.5, num_particles=3)"
