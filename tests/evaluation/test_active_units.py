"""Active units where the variance of the posterior mean is known."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.testing import assert_close

from pyro_vae import active_units
from pyro_vae.evaluation import ActiveUnits
from pyro_vae.evaluation.posterior_means import BLOCK
from pyro_vae.guides import MeanFieldGuide

GAIN = torch.tensor([2.0, 0.0, 0.5, 0.05], dtype=torch.float64)
"""The mean of unit i is GAIN[i] * x_i; its variance over x is GAIN[i]^2 Var(x_i)."""


def linear_guide(scale=1.0):
    encoder = nn.Linear(4, 8).double()
    with torch.no_grad():
        encoder.weight.zero_()[:4] = GAIN.diag()
        encoder.bias.copy_(torch.cat([torch.ones(4), torch.full((4,), scale).log()]))
    return MeanFieldGuide((4,), 4, encoder=encoder)


def sampled_guide(scale, name="z"):
    """The same law, without a `posterior`."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal(1 + GAIN * x, scale).to_event(1))

    return guide


def data(n):
    return torch.randn(n, 4, dtype=torch.float64) * torch.tensor([1.0, 5.0, 1.0, 1.0]).double()


def test_the_variance_of_a_linear_guide():
    x = data(BLOCK + 300)
    found = active_units(linear_guide(), x)
    assert_close(found.variance, GAIN.square() * x.var(0), rtol=1e-10, atol=1e-12)
    assert found.active.tolist() == [True, False, True, False]
    assert found.count == 2
    assert found.most_active == [0, 2, 3, 1]
    assert str(found) == "2 of 4 latent units active (variance of the mean > 0.01)"
    assert active_units(linear_guide(), x, threshold=0.001).count == 3


def test_sampled_means_are_corrected_for_their_noise():
    """Three samples of sd 1 add 1/3 to each variance; taken off, the mean of 200 runs is unbiased (4 s.e.).

    Unit 1, of variance 0, is cut at 0 in each run and so not averaged here; uncorrected it would show 1/3.
    """
    x = data(500)
    runs = torch.stack([active_units(sampled_guide(1.0), x, num_samples=3).variance for _ in range(200)])
    exact = GAIN.square() * x.var(0)
    error = runs.std(0) / len(runs) ** 0.5
    for unit in (0, 2):
        assert (runs[:, unit].mean() - exact[unit]).abs() < 4 * error[unit]
    assert (error[[0, 2]] < 0.02).all()
    assert (runs[:, 1] >= 0).all()
    assert runs[:, 1].mean() < 0.05


def test_sampling_agrees_with_the_closed_mean():
    x = data(2000)
    sampled = active_units(sampled_guide(0.3), x, num_samples=20)
    assert sampled.active.tolist() == active_units(linear_guide(0.3), x).active.tolist()


def test_a_posterior_without_a_mean_is_sampled():
    class NoMean(MeanFieldGuide):
        def posterior(self, x):
            q = super().posterior(x)
            return torch.distributions.TransformedDistribution(q, [])

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", super().posterior(x))

    guide = NoMean((4,), 4, encoder=linear_guide(0.1).encoder)
    x = data(500)
    assert_close(active_units(guide, x).variance, GAIN.square() * x.var(0), rtol=0.05, atol=0.01)


def test_other_sites_and_bad_input():
    x = data(20)
    assert active_units(sampled_guide(0.1, "w"), x, site="w").count == 2
    with pytest.raises(ValueError, match=r"active_units: the guide has no site 'z', only .*w; pass site='NAME'\."):
        active_units(sampled_guide(0.1, "w"), x)
    with pytest.raises(ValueError, match=r"num_samples must be at least 2 .*; got 1\."):
        active_units(sampled_guide(0.1), x, num_samples=1)


def test_evaluation_mode_and_back():
    guide = linear_guide()
    guide.encoder = nn.Sequential(nn.Dropout(0.5), guide.encoder)
    x = data(50)
    assert_close(active_units(guide, x).variance, GAIN.square() * x.var(0), rtol=1e-10, atol=1e-12)
    assert guide.encoder[0].training


def test_most_active_orders_all_units():
    assert ActiveUnits(torch.tensor([0.1, 3.0, 0.0, 0.5])).most_active == [1, 3, 0, 2]
