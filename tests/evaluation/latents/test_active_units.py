"""Active units where the variance of the posterior mean is known."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.testing import assert_close

from pyro_vae import active_units
from pyro_vae.evaluation import ActiveUnits
from pyro_vae.evaluation.over_data.posterior_means import BLOCK
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
    """The same law, without a `posterior` and as one that does not know its mean."""

    def guide(x):
        with pyro.plate("data", len(x)):
            law = dist.Normal(1 + GAIN * x, scale)
            pyro.sample(
                name, dist.TransformedDistribution(law, [dist.transforms.AffineTransform(0.0, 1.0)]).to_event(1)
            )

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

    Uncorrected, unit 1, of variance 0, would show 1/3.
    """
    x = data(500)
    runs = torch.stack([active_units(sampled_guide(1.0), x, num_samples=3).variance for _ in range(200)])
    exact = GAIN.square() * x.var(0)
    error = runs.std(0) / len(runs) ** 0.5
    assert ((runs.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.02).all()


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
    assert active_units(sampled_guide(0.1, "w"), x).units == ("w[0]", "w[1]", "w[2]", "w[3]")
    with pytest.raises(ValueError, match=r"no site 'z', only .*w; pass"):
        active_units(sampled_guide(0.1, "w"), x, site="z")
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        active_units(sampled_guide(0.1), x, num_samples=1)


def test_evaluation_mode_and_back():
    guide = linear_guide()
    guide.encoder = nn.Sequential(nn.Dropout(0.5), guide.encoder)
    x = data(50)
    assert_close(active_units(guide, x).variance, GAIN.square() * x.var(0), rtol=1e-10, atol=1e-12)
    assert guide.encoder[0].training


def test_most_active_orders_all_units():
    assert ActiveUnits(torch.tensor([0.1, 3.0, 0.0, 0.5])).most_active == [1, 3, 0, 2]


def no_mean(loc, scale):
    return dist.TransformedDistribution(dist.Normal(loc, scale), [dist.transforms.AffineTransform(0.0, 1.0)])


def shifted(gain, scale=1.0):
    """A guide that does not know its mean, which is gain * x."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", no_mean(gain * x, scale).to_event(1))

    return guide


def test_a_collapsed_guide_of_few_data_has_no_active_unit():
    """Uncorrected for its own noise, the variance of 10 means of 50 draws is above 0.01 for one unit in seven."""
    x = torch.randn(10, 50, dtype=torch.float64)
    for _ in range(20):
        found = active_units(shifted(0.0), x)
        assert found.count == 0
    assert found.num_undecided > 0
    assert "undecided" in str(found)
    many = active_units(shifted(0.0), torch.randn(2000, 50, dtype=torch.float64))
    assert (many.count, many.num_undecided) == (0, 0)
    assert str(many) == "0 of 50 latent units active (variance of the mean > 0.01)"


@pytest.mark.parametrize(("num_data", "num_samples"), [(10, 50), (200, 3), (30, 2)])
def test_verdicts_at_the_threshold_are_wrong_as_seldom_as_they_say(num_data, num_samples):
    """50 units whose variance is the threshold, 40 runs: a verdict at a chance of 1 %, so hardly more than 4 of 40."""
    x = torch.randn(num_data, 50, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    runs = [active_units(shifted(0.1), x, num_samples=num_samples) for _ in range(40)]
    assert sum(found.num_undecided < 50 for found in runs) <= 4
    # The errors say what another seed changes: on average of 50 units, whose spreads have a relative s.e. of 0.11.
    spread = torch.stack([found.variance for found in runs]).std(0)
    mean_error = torch.stack([found.standard_errors for found in runs]).mean(0)
    assert abs((spread / mean_error).mean().item() - 1) < 0.12


def test_several_sites_in_any_order_and_a_datum_of_several_tensors():
    def guide(x, gain):
        with pyro.plate("rows", len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(gain, 0.5))
            with pyro.plate("parts", 2, dim=-2):
                pyro.sample("latent", dist.Normal(w + 0 * x[:, :2].T, 0.1))

    x, gain = data(400), torch.randn(400, dtype=torch.float64)
    found = active_units(guide, (x, gain))
    assert found.units == ("w[0]", "latent[0]", "latent[1]")
    # E[latent | x] is E[w | x]: sampled, as is all that comes after another site.
    assert_close(found.variance, gain.var().expand(3), rtol=0.2, atol=0)
    assert found.count == 3
    assert [(name, part.count) for name, part in found.by_site.items()] == [("w", 1), ("latent", 2)]
    assert str(found).endswith(": 1 of 1 in w, 2 of 2 in latent")
    assert_close(active_units(guide, (x, gain), site="w").variance, gain.var().unsqueeze(0))


def test_one_datum_has_no_variance():
    for guide in (linear_guide(), sampled_guide(1.0)):
        found = active_units(guide, data(1))
        assert found.count is None
        assert "unknown" in str(found)
        assert sorted(found.most_active) == [0, 1, 2, 3]


def test_a_law_without_a_mean_is_unknown():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Cauchy(x, 1.0).to_event(1))

    assert active_units(guide, data(9)).count is None


def test_a_site_outside_the_plate_over_data_is_named():
    def guide(x):
        pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"inside one .*weight"):
        active_units(guide, data(9))
