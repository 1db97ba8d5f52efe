"""Noise that was recorded in a run with several samples is that of each sample run alone."""

import pytest
import torch
from torch import distributions as dist

from pyro_vae.runtime.noise import RecordedNoise, ReplayedNoise


@pytest.mark.parametrize(
    "law",
    [
        dist.Normal(torch.zeros(3), 2.0),
        dist.Gamma(torch.tensor([0.5, 1.0, 2.0]), 1.0),
        dist.Categorical(torch.ones(3, 4)),
        dist.Uniform(torch.zeros(3), 1.0),
        dist.Bernoulli(torch.full((3,), 0.5)),
        dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_each_sample_draws_again_what_it_drew_beside_the_others(law):
    with RecordedNoise() as noise:
        together = law.expand(torch.Size([5]) + law.batch_shape).sample()  # as a plate does
    for k in range(5):
        with ReplayedNoise(noise.draws, k):
            alone = law.sample()
        # Matrix products round differently with another batch.
        torch.testing.assert_close(alone, together[k])


def test_what_all_samples_share_is_given_to_each():
    with RecordedNoise() as noise:
        rows, z = torch.randperm(7), torch.randn(2, 7)
    with ReplayedNoise(noise.draws, 1):
        assert torch.equal(torch.randperm(7), rows)
        assert torch.equal(torch.randn(7), z[1])


def test_noise_of_another_shape_or_beyond_the_record_is_refused():
    with RecordedNoise() as noise:
        torch.randn(2, 3)
    for ask in (lambda: torch.randn(4), lambda: (torch.randn(3), torch.randn(3))):
        with pytest.raises(ValueError, match="asks for other noise"), ReplayedNoise(noise.draws, 0):
            ask()
