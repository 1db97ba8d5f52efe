"""Calibration of guides whose faults are known."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy.stats import kstest

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation import SBC, sbc
from pyro_vae.statistics.uniformity import uniformity_p_value


def off(case, x, shift=0.0, stretch=1.0):
    """The exact posterior, moved by some of its standard deviations and stretched."""
    exact = case.model.posterior(x)
    root = exact.scale_tril
    scale = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal(exact.mean + shift * scale, scale_tril=stretch * root))


def test_the_exact_guide_passes(linear_gaussian):
    found = sbc(linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3), num_data=500, seed=1)
    assert found.calibrated
    assert found.ranks.shape == (500, 3)
    assert found.ranks.min() >= 0
    assert found.ranks.max() <= 99
    assert str(found).startswith("no miscalibration found: ranks of 500 simulated data among 99 draws are not uniform")
    low, high = found.band()
    difference = found.ecdf_difference
    assert ((difference >= low[:, None]) & (difference <= high[:, None])).all()


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.7), (0.0, 1.4), (0.3, 1.0), (-0.3, 1.0)])
def test_a_guide_with_another_scale_or_place_fails(linear_gaussian, shift, stretch):
    guide = partial(off, linear_gaussian, shift=shift, stretch=stretch)
    found = sbc(linear_gaussian.model, guide, linear_gaussian.data(3), num_data=500, seed=1)
    assert not found.calibrated
    assert found.rejected.all()
    assert "not calibrated" in str(found)
    assert "3 of 3 dims" in str(found)
    # Too narrow a guide has too many truths below all of its draws, too wide a one too few.
    left = found.ecdf_difference[10].mean()
    assert left > 0 if stretch < 1 or shift > 0 else left < 0


def test_the_prior_passes_and_is_no_posterior(linear_gaussian):
    """As Talts et al. (2018) warn: ranks are averages over data."""

    def prior(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))

    assert sbc(linear_gaussian.model, prior, linear_gaussian.data(3), num_data=500, seed=1).calibrated


def test_p_values_are_uniform_under_the_exact_guide(linear_gaussian):
    """Kolmogorov-Smirnov distance of 200 p-values below 1.95 / sqrt(200): missed by one run in a thousand.

    A run's data are independent: one run with 200 times as many is 200 runs.
    """
    found = sbc(
        linear_gaussian.model,
        linear_gaussian.exact_guide,
        linear_gaussian.data(3),
        num_data=20_000,
        num_draws=19,
        seed=1,
    )
    p_values = [uniformity_p_value(ranks.numpy(), 20) for ranks in found.ranks[:, 0].split(100)]
    assert kstest(p_values, "uniform").statistic < 1.95 / 200**0.5


def constrained(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(3.0), 2.0))
        pyro.sample("x", dist.Poisson(rate.unsqueeze(-1) * torch.ones_like(x)).to_event(1), obs=x)


def conjugate(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rate", dist.Gamma(3 + x.sum(-1), 2.0 + x.shape[-1]))


def test_a_constrained_latent_and_a_conjugate_guide_pass():
    assert sbc(constrained, conjugate, torch.zeros(5, 4), num_data=400, num_draws=49, seed=1).calibrated


def test_other_arguments_follow_their_data():
    """A covariate of each datum: its rows are repeated together with the template's."""

    def model(x, covariate):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(covariate, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, covariate):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + covariate) / 2, 0.5**0.5).to_event(1))

    x = (torch.zeros(7, 2), 10 * torch.randn(7, 2))
    assert sbc(model, guide, x, num_data=300, num_draws=49, seed=1).calibrated


def test_seeds_and_sizes(linear_gaussian):
    x = linear_gaussian.data(3)
    state = torch.get_rng_state()
    one, other = (
        sbc(linear_gaussian.model, linear_gaussian.exact_guide, x, num_data=31, num_draws=70, seed=5) for _ in "12"
    )
    assert torch.equal(one.ranks, other.ranks)
    assert torch.equal(state, torch.get_rng_state())
    assert one.ranks.shape == (31, 3)
    assert one.summary() == {
        "calibrated": one.calibrated, "num_data": 31, "num_draws": 70, "dim": 3, "num_rejected": 0,
        "smallest_adjusted_p_value": one.adjusted.min().item(), "left_out": 0,
        "num_unresolved": 0,
    }  # fmt: skip


def test_equal_values_are_ordered_at_random():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1e-30).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(x).to_event(1))

    found = sbc(model, guide, torch.zeros(5, 1), num_data=500, num_draws=9, seed=1)
    assert found.ranks.unique().tolist() == list(range(10))
    assert found.calibrated


def test_data_whose_draws_are_not_finite_are_left_out(linear_gaussian):
    def guide(x, bad):
        q = linear_gaussian.model.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.where(bad(x).unsqueeze(-1), torch.nan, q.mean), 1.0).to_event(1))

    x = torch.zeros(3, 5).double()
    found = sbc(linear_gaussian.model, partial(guide, bad=lambda x: x[:, 0] > 2), x, num_data=200, num_draws=9, seed=1)
    assert 0 < found.left_out < 200
    assert len(found.ranks) == 200 - found.left_out
    assert not found.calibrated
    assert f"{found.left_out} data left out" in str(found)
    with pytest.raises(NonFiniteError, match="infinite for all of 20"):
        sbc(linear_gaussian.model, partial(guide, bad=lambda x: x[:, 0] != 0), x, num_data=20, num_draws=9, seed=1)


def test_bad_input_is_refused(linear_gaussian):
    x = linear_gaussian.data(3)
    for sizes in ({"num_data": 1}, {"num_draws": 0}):
        with pytest.raises(ValueError, match=r"num_(data|draws) must be at"):
            sbc(linear_gaussian.model, linear_gaussian.exact_guide, x, **sizes)

    def discrete(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"sbc: .*'z' is discrete.* ties"):
        sbc(discrete, discrete, x)


def test_dims_are_adjusted_for_their_number():
    found = SBC(torch.zeros(10, 3, dtype=torch.int64), torch.tensor([0.02, 0.5, 0.6]).double(), 9)
    assert found.adjusted.tolist() == pytest.approx([0.06, 1.0, 1.0])
    assert found.calibrated
