"""The Bernoulli likelihood by its formula, its output bias, and soft targets."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.testing import LikelihoodSuite


def test_log_mass_by_formula():
    likelihood = BernoulliLikelihood((2, 3), 2, (4,)).double()
    z = torch.randn(5, 2, dtype=torch.float64)
    x = torch.rand(5, 2, 3, dtype=torch.float64).round()
    p = likelihood.decoder(z).sigmoid().reshape(5, 2, 3)
    expected = torch.where(x == 1, p, 1 - p).log().sum((1, 2))
    assert_close(likelihood(z).log_prob(x), expected, rtol=1e-12, atol=1e-12)


def test_the_mass_of_all_images_is_one():
    likelihood = BernoulliLikelihood((2, 3), 2, (4,)).double()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64).reshape(-1, 2, 3)
    p = likelihood(torch.randn(2, dtype=torch.float64))
    assert_close(p.log_prob(images).exp().sum().item(), 1.0, rtol=1e-12, atol=0)


def test_initialize_bias_makes_the_mean_image_at_zero_features():
    likelihood = BernoulliLikelihood((2, 3), 2, ())
    mean = torch.tensor([[0.0, 0.25, 0.5], [0.75, 0.9, 1.0]])
    likelihood.initialize_bias(mean)
    assert_close(likelihood(torch.zeros(2)).mean, mean.clamp(0.001, 0.999))
    with pytest.raises(ValueError, match=r"mean must have .*got \(6,\)"):
        likelihood.initialize_bias(mean.flatten())


def test_hard_and_soft_targets():
    grey = torch.full((5, 2), 0.3)
    hard, soft = BernoulliLikelihood((2,), 1, ()), BernoulliLikelihood((2,), 1, (), soft_targets=True)
    soft.load_state_dict(hard.state_dict())
    z = torch.randn(5, 1)
    with pytest.raises(ValueError, match="support"):
        hard(z).log_prob(grey)
    p = soft(z).mean
    assert_close(soft(z).log_prob(grey), (0.3 * p.log() + 0.7 * (1 - p).log()).sum(-1))
    with pytest.raises(ValueError, match="support"):
        soft(z).log_prob(grey + 1)
    # At the corners both agree.
    assert_close(soft(z).log_prob(grey.round()), hard(z).log_prob(grey.round()))


def test_soft_targets_stay_marked_when_expanded():
    soft = BernoulliLikelihood((2,), 1, (), soft_targets=True)(torch.zeros(1))
    assert soft.expand((7,)).base_dist.normalized is False


class TestContract(LikelihoodSuite):
    part = "bernoulli"
