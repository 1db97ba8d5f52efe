"""Rate, mutual information and marginal KL against closed forms, and quadrature over a mixture of five Gaussians."""

import json
import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_vae.errors import NonFiniteError
from pyro_vae.evaluation import elbo_terms, latent_statistics
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.guides import AuxiliaryGuide, FullRankGuide, MeanFieldGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.models.priors import GaussianMixturePrior, StudentTPrior

X = torch.tensor([[-1.5], [-1.3], [0.2], [1.0], [2.5]], dtype=torch.float64)
"""Five data, two of them near one another."""


class FiveGaussians:
    """z and x of one dim, with q(z | x) = N(0.8 x, 0.3^2), and the exact numbers by quadrature."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x, 0.3).to_event(1))

    def __init__(self):
        grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
        log_q = dist.Normal(0.8 * X, 0.3).log_prob(grid)
        log_mixture = log_q.logsumexp(0) - math.log(5)
        log_prior = dist.Normal(0.0, 1.0).log_prob(grid)
        self.mutual_information = torch.trapezoid(log_q.exp() * (log_q - log_mixture), grid)
        self.marginal_kl = torch.trapezoid(log_q.exp() * (log_mixture - log_prior), grid)
        self.rate = kl_divergence(dist.Normal(0.8 * X, 0.3), dist.Normal(0.0, 1.0)).squeeze(-1)
        self.distortion = 0.5 * ((0.2 * X.squeeze(-1)).square() + 0.09) / 0.25 + math.log(0.5 * math.sqrt(2 * math.pi))

    def numbers(self):
        return {name: getattr(self, name) for name in ("rate", "distortion", "mutual_information", "marginal_kl")}


def test_every_number_is_within_four_standard_errors_of_its_exact_value():
    exact = FiveGaussians()
    found = latent_statistics(exact.model, exact.guide, X, num_samples=4000, seed=0)
    assert_close(exact.rate, exact.mutual_information + exact.marginal_kl, rtol=1e-9, atol=1e-9)
    for name, value in exact.numbers().items():
        estimate = getattr(found, name)
        assert ((estimate.per_datum - value).abs() < 4 * estimate.standard_errors).all(), name
        assert abs(estimate.mean - value.mean().item()) < 4 * estimate.standard_error, name
        assert estimate.standard_error < 0.01
    assert found.mutual_information.mean < math.log(5)
    assert_close(found.kl_per_unit, exact.rate.mean().reshape(1))
    assert found.kl_per_unit_errors.max() < 1e-7


@pytest.mark.parametrize("whole", [False, True])
def test_what_all_data_mask_is_no_variable(whole):
    """The five Gaussians beside an element, or a site, that no datum has: the same exact numbers."""
    exact = FiveGaussians()

    def masked(law):
        return law.mask(torch.tensor([True, False])).to_event(1)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", masked(dist.Normal(torch.zeros(2).double(), 1.0)))
            if whole:
                with poutine.mask(mask=torch.zeros(len(x), dtype=torch.bool)):
                    pyro.sample("w", dist.Normal(z[..., 0], 1.0))
            pyro.sample("x", dist.Normal(z[..., :1], 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", masked(dist.Normal(torch.cat([0.8 * x, 9 * x], -1), 0.3)))
            if whole:
                with poutine.mask(mask=torch.zeros(len(x), dtype=torch.bool)):
                    pyro.sample("w", dist.Normal(3 * z[..., 0], 0.1))

    found = latent_statistics(model, guide, X, num_samples=2000, seed=0, progress=False)
    for name, value in exact.numbers().items():
        estimate = getattr(found, name)
        assert ((estimate.per_datum - value).abs() < 4.5 * estimate.standard_errors).all(), name


@pytest.mark.slow
def test_standard_errors_cover_the_truth_in_90_to_99_percent_of_200_repetitions():
    exact = FiveGaussians()
    covered = dict.fromkeys(exact.numbers(), 0)
    for repetition in range(200):
        found = latent_statistics(exact.model, exact.guide, X, num_samples=20, seed=repetition)
        for name, value in exact.numbers().items():
            estimate = getattr(found, name)
            covered[name] += abs(estimate.mean - value.mean().item()) < 2 * estimate.standard_error
    for name, count in covered.items():
        assert 0.90 <= count / 200 <= 0.99, (name, count)


def test_rate_is_information_plus_marginal_kl_and_elbo_terms_agree(linear_gaussian):
    case = linear_gaussian
    x = case.data(40)
    found = latent_statistics(case.model, case.inexact_guide, x, num_samples=50, seed=0)
    rate = kl_divergence(case.diagonal(x).base_dist, dist.Normal(torch.zeros(3).double(), 1.0))
    assert abs(found.rate.mean - rate.sum(-1).mean().item()) < 4 * found.rate.standard_error
    assert_close(found.kl_per_unit, rate.mean(0))
    assert found.rate.mean == pytest.approx(found.mutual_information.mean + found.marginal_kl.mean, abs=1e-10)
    terms = elbo_terms(case.model, case.inexact_guide, x, 50, seed=1)
    difference = found.rate.mean + found.distortion.mean + terms.elbo.mean
    assert abs(difference) < 4 * (2**0.5) * terms.elbo.standard_error
    assert not found.collapsed.any()
    assert found.active_units.count == 3
    assert_close(found.active_units.variance, case.diagonal(x).mean.var(0))


@pytest.mark.slow
def test_the_information_of_many_data_nears_that_of_the_channel(make_linear_gaussian):
    """Exact posteriors of 3000 data from the model: I(x; z) = 1/2 log(1 + |w|^2 / s^2), and q(z) nears the prior.

    The rate's mean is within 4 s.e. (of draws and of data) of I; the marginal KL of these 3000, by quadrature, is what
    the two differ by.
    """
    case = make_linear_gaussian(latent_dim=1)
    x = case.data(3000)
    q = case.model.posterior(x)
    loc, scale = q.mean, q.covariance_matrix[..., 0].sqrt()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            exact = case.model.posterior(x)
            pyro.sample("z", dist.Normal(exact.mean, exact.covariance_matrix[..., 0].sqrt()).to_event(1))

    found = latent_statistics(case.model, guide, x, num_samples=4, seed=0)
    channel = 0.5 * math.log1p(case.model.loadings.square().sum().item() / 0.36)
    assert abs(found.rate.mean - channel) < 4 * math.hypot(found.rate.standard_error, found.rate.data_standard_error)
    grid = torch.linspace(-6, 6, 3001, dtype=torch.float64)
    log_mixture = dist.Normal(loc, scale).log_prob(grid).logsumexp(0) - math.log(3000)
    marginal = torch.trapezoid(log_mixture.exp() * (log_mixture - dist.Normal(0.0, 1.0).log_prob(grid)), grid).item()
    assert abs(found.marginal_kl.mean - marginal) < 4 * found.marginal_kl.standard_error
    assert 0 < marginal < 0.05
    exact = kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0)).mean().item() - marginal
    assert abs(found.mutual_information.mean - exact) < 4 * found.mutual_information.standard_error


def test_a_posterior_that_ignores_x_has_no_information():
    """q(z | x) = q(z): the information is 0 exactly, all of the rate is marginal KL, and no unit is active."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5, torch.ones(len(x), 1).double()).to_event(1))

    found = latent_statistics(FiveGaussians.model, guide, X, num_samples=30, seed=0)
    assert_close(found.mutual_information.per_datum, torch.zeros(5).double(), rtol=0, atol=1e-12)
    assert_close(found.kl_per_unit, torch.tensor([0.125]).double())
    assert found.active_units.count == 0
    assert not found.all_collapsed


def test_separate_posteriors_reach_log_n():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1e-3).to_event(1))

    found = latent_statistics(FiveGaussians.model, guide, X, num_samples=30, seed=0)
    assert found.mutual_information.mean == pytest.approx(math.log(5), abs=1e-9)
    assert "of at most log N = 1.61" in str(found)


def constant_encoder(loc, scale):
    encoder = nn.Linear(1, 2 * len(loc)).double()
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[0] = 1.0
        encoder.bias.copy_(torch.tensor([*loc, *(math.log(s) for s in scale)]))
    return encoder


def test_collapsed_units_are_flagged():
    """Unit 0 follows x, unit 1 is the prior, unit 2 is far from the prior and says nothing of x."""
    model = VAE((1,), 3, hidden_dims=(4,)).double()
    x = torch.tensor([[0.0], [1.0]]).double()
    guide = MeanFieldGuide((1,), 3, encoder=constant_encoder([0.0, 0.0, 2.0], [1.0, 1.0, 1.0]))
    found = latent_statistics(model, guide, x, seed=0)
    assert found.collapsed.tolist() == [False, True, False]
    assert found.active_units.active.tolist() == [True, False, False]
    assert_close(found.kl_per_unit, torch.tensor([0.25, 0.0, 2.0]).double())
    assert found.summary()["collapsed_units"] == ["z[1]"]
    assert "1 of 3 latent units active, 1 collapsed" in str(found)
    with torch.no_grad():
        guide.encoder.weight.zero_()
        guide.encoder.bias.zero_()
    found = latent_statistics(model, guide, x, seed=0)
    assert found.all_collapsed
    assert "all collapsed onto the prior" in str(found)


def test_another_prior_has_sampled_kls_by_unit():
    """Student-t: each unit's KL by quadrature, within 4 s.e."""
    model = VAE((1,), 2, hidden_dims=(4,), prior=StudentTPrior(2)).double()
    guide = MeanFieldGuide((1,), 2, encoder=constant_encoder([0.3, 0.0], [0.5, 1.5]))
    x = torch.tensor([[0.0], [1.0]]).double()
    found = latent_statistics(model, guide, x, num_samples=4000, seed=0)
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        prior = model.prior().base_dist.log_prob(grid)
        posterior = guide.posterior(x).base_dist.log_prob(grid.unsqueeze(1))
    exact = torch.trapezoid(posterior.exp() * (posterior - prior.unsqueeze(1)), grid.unsqueeze(1), dim=0).mean(0)
    assert ((found.kl_per_unit - exact).abs() < 4 * found.kl_per_unit_errors).all()
    assert (found.kl_per_unit_errors > 0).all()
    assert found.kl_per_unit.sum().item() == pytest.approx(found.rate.mean)


def test_a_prior_that_is_no_product_has_no_kls_by_unit():
    model = VAE((1,), 2, hidden_dims=(4,), prior=GaussianMixturePrior(2)).double()
    guide = FullRankGuide((1,), 2, hidden_dims=(4,)).double()
    found = latent_statistics(model, guide, torch.tensor([[0.0], [1.0]]).double(), seed=0)
    assert found.kl_per_unit is None
    assert found.mutual_information is not None
    assert "no kl per unit: q(z | x) is no product over the units of site 'z'" in str(found)
    assert found.collapsed.tolist() == (~found.active_units.active).tolist()


@pytest.mark.parametrize("guide", [PlanarGuide((4,), 2, hidden_dims=(8,)), AuxiliaryGuide((4,), 2, hidden_dims=(8,))])
def test_a_guide_that_scores_only_its_own_draws_has_a_rate_and_no_information(guide):
    x = torch.zeros(5, 4)
    found = latent_statistics(VAE((4,), 2, hidden_dims=(8,)), guide, x, seed=0)
    assert found.mutual_information is None
    assert found.marginal_kl is None
    assert found.rate.per_datum.isfinite().all()
    assert "; no mutual information: " in str(found)
    assert found.summary().keys().isdisjoint({"mutual_information", "marginal_kl"})
    assert found.summary()["why_not"].keys() >= {"mutual_information", "marginal_kl"}


@pytest.mark.parametrize("law", ["bernoulli", "categorical"])
def test_discrete_latents_by_enumeration(law):
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95]]).double()
    prior = torch.tensor([0.6, 0.4]).double()
    mixture = probs.mean(0)

    def sample(p):
        return dist.Bernoulli(p[..., 1]) if law == "bernoulli" else dist.Categorical(p)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", sample(prior))
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x[:, 1])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", sample(x))

    found = latent_statistics(model, guide, probs, num_samples=2000, seed=0)
    for name, exact in (
        ("rate", (probs * (probs / prior).log()).sum(1)),
        ("mutual_information", (probs * (probs / mixture).log()).sum(1)),
        ("marginal_kl", (probs * (mixture / prior).log()).sum(1)),
    ):
        estimate = getattr(found, name)
        assert ((estimate.per_datum - exact).abs() < 4 * estimate.standard_errors).all(), name
    assert_close(found.kl_per_unit, (probs * (probs / prior).log()).sum(1).mean(0, keepdim=True))
    # Of a categorical law the means are sampled: 2000 draws of each.
    assert_close(found.active_units.variance, probs[:, 1:].var(0), rtol=0, atol=0.02)


def test_several_sites_and_arguments():
    """z1 and z2 are independent of one another: the KLs of both, by name, and the information of the pair."""

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z1.squeeze(-1) + z2 + y, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(x.unsqueeze(-1), 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(y, 2.0))

    x, y = torch.randn(2, 20).double()
    found = latent_statistics(model, guide, (x, y), num_samples=40, seed=0)
    assert found.units == ("z1[0]", "z2[0]")
    laws = dist.Normal(torch.stack([x, y], -1), torch.tensor([0.5, 2.0]).double())
    expected = kl_divergence(laws, dist.Normal(torch.zeros(2).double(), 1.0))
    assert_close(found.kl_per_unit, expected.mean(0))
    assert abs(found.rate.mean - expected.sum(-1).mean().item()) < 4 * found.rate.standard_error
    assert 0 < found.mutual_information.mean < math.log(20)
    # Means are sampled where there are several sites: 4 s.e. of a variance of 20 means with known noise.
    assert_close(found.active_units.variance, torch.stack([x.var(), y.var()]), rtol=0.5, atol=0.2)


def test_a_datum_with_a_nan_is_flagged_and_the_others_are_as_without_it(linear_gaussian):
    case = linear_gaussian

    def guide(x):
        broken = torch.where(x.sum(-1, keepdim=True) > 1e3, torch.nan, 0.0)
        with pyro.plate("data", len(x), dim=-1):
            q = case.diagonal(x)
            pyro.sample("z", dist.Normal(q.mean + broken, q.stddev).to_event(1))

    x = case.data(12)
    spoiled = torch.cat([x[:5], torch.full((1, 5), 1e4).double(), x[5:]])
    found = latent_statistics(case.model, guide, spoiled, num_samples=200, seed=0)
    expected = latent_statistics(case.model, guide, x, num_samples=200, seed=1)
    assert found.flagged.tolist() == [index == 5 for index in range(13)]
    assert found.num_members == 12
    assert found.mutual_information.per_datum.isnan().tolist() == found.flagged.tolist()
    for name in ("rate", "distortion", "mutual_information", "marginal_kl"):
        one, other = getattr(found, name), getattr(expected, name)
        assert abs(one.mean - other.mean) < 4 * math.hypot(one.standard_error, other.standard_error), name
    assert_close(found.kl_per_unit, expected.kl_per_unit)
    assert_close(found.active_units.variance, expected.active_units.variance)
    assert "1 datum with a NaN or infinite weight left out" in str(found)
    with pytest.raises(NonFiniteError):
        latent_statistics(case.model, guide, spoiled[5:6])


def test_blocks_do_not_change_the_law_and_a_seed_repeats(linear_gaussian):
    case, before = linear_gaussian, torch.get_rng_state()
    x = case.data(9)
    first, again = (latent_statistics(case.model, case.inexact_guide, x, num_samples=30, seed=2) for _ in range(2))
    assert torch.equal(first.mutual_information.per_datum, again.mutual_information.per_datum)
    with run_sizes(rows=20):
        other = latent_statistics(case.model, case.inexact_guide, x, num_samples=30, seed=2)
    assert not torch.equal(first.mutual_information.per_datum, other.mutual_information.per_datum)
    for name in ("rate", "distortion", "mutual_information", "marginal_kl"):
        one, two = getattr(first, name), getattr(other, name)
        assert abs(one.mean - two.mean) < 4 * math.hypot(one.standard_error, two.standard_error), name
    torch.set_rng_state(before)


def test_the_summary_is_plain(linear_gaussian):
    case = linear_gaussian
    found = latent_statistics(case.model, case.inexact_guide, case.data(9), seed=0)
    summary = json.loads(json.dumps(found.summary()))
    means = {name: summary[name]["mean"] for name in ("rate", "mutual_information", "marginal_kl")}
    assert means["rate"] == pytest.approx(means["mutual_information"] + means["marginal_kl"])
    assert str(found).startswith(f"rate {found.rate.mean:.2f} (s.e. ")


def test_bad_input(linear_gaussian):
    model, guide, x = linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        latent_statistics(model, guide, x, num_samples=1)
    with pytest.raises(ValueError, match="statistics: x: there are none"):
        latent_statistics(model, guide, x[:0])
    with pytest.raises(ValueError, match="LinearGaussian: x must have"):
        latent_statistics(model, guide, x[:, :4])


def seen_through(law):
    """A model of one latent site under a prior, observed through a Gaussian."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", law)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    return model


def guided_by(law):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", law(x))

    return guide


ONE_COLUMN = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).double()


def test_what_torch_calls_the_mean_of_an_angle_is_no_mean():
    """Nearly uniform on the circle, round directions that differ: E[z] is 0 for all."""
    guide = guided_by(lambda x: dist.VonMises(3 * x[:, 0].sign(), torch.full((len(x),), 1e-4).double()))
    model = seen_through(dist.VonMises(torch.zeros(()).double(), 1.0))
    found = latent_statistics(model, guide, ONE_COLUMN, num_samples=200, seed=0)
    assert found.active_units.count == 0


def test_a_law_without_a_mean_has_no_active_units():
    guide = guided_by(lambda x: dist.Cauchy(x[:, 0], 1.0))
    model = seen_through(dist.Cauchy(torch.zeros(()).double(), 1.0))
    assert latent_statistics(model, guide, ONE_COLUMN, num_samples=20, seed=0).active_units.count is None


def test_noise_of_a_guide_that_is_no_site_is_no_information():
    """q knows nothing of x: each run draws where it is centred."""
    guide = guided_by(lambda x: dist.Normal(torch.randn(len(x)).double(), 0.1))
    model = seen_through(dist.Normal(torch.zeros(()).double(), 1.0))
    found = latent_statistics(model, guide, ONE_COLUMN, num_samples=50, seed=0)
    assert found.mutual_information is None
    assert found.marginal_kl is None
    assert found.kl_per_unit is None
    assert "run again with the values it drew, gives them another density" in found.why_not["mutual_information"]
    assert found.active_units.count is None


def test_units_without_a_kl_of_their_own_have_not_collapsed_at_a_large_rate():
    """q(z) = N(0, 0.1^2) is the same for all data, and 1.8 nats away from the prior."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            v = pyro.sample("v", dist.Normal(x.new_zeros(len(x)), 0.1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(v))

    found = latent_statistics(seen_through(dist.Normal(torch.zeros(()).double(), 1.0)), guide, ONE_COLUMN, seed=0)
    assert found.kl_per_unit is None
    assert found.rate.mean == pytest.approx(math.log(10) + 0.005 - 0.5, abs=0.1)
    assert not found.collapsed.any()
    assert not found.all_collapsed


@pytest.mark.parametrize("upwards", [False, True])
def test_parts_of_two_layers_by_site_and_unit(upwards):
    """Rates of a linear Gaussian program of two layers, sampled in the model's order and in the other one."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(0.8 * top, 0.6).to_event(1))
            pyro.sample("x", dist.Normal(bottom, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            if upwards:
                bottom = pyro.sample("bottom", dist.Normal(0.7 * x, 0.5).to_event(1))
                pyro.sample("top", dist.Normal(0.4 * bottom, 0.9).to_event(1))
            else:
                top = pyro.sample("top", dist.Normal(0.3 * x, 0.9).to_event(1))
                pyro.sample("bottom", dist.Normal(0.4 * x + 0.2 * top, 0.5).to_event(1))

    found = latent_statistics(model, guide, X, num_samples=4000, seed=0)
    # Under q, each of these is normal: the mean and the variance of the top, and of bottom - 0.8 top.
    if upwards:
        mean, variance = 0.28 * X, 0.4**2 * 0.25 + 0.81
        residual, spread = 0.7 * X * (1 - 0.32), (1 - 0.32) ** 2 * 0.25 + 0.8**2 * 0.81
    else:
        mean, variance = 0.3 * X, 0.81
        residual, spread = 0.4 * X + (0.2 - 0.8) * 0.3 * X, 0.25 + 0.6**2 * 0.81
    of_top = 0.5 * (mean.square() + variance) - 0.5 - math.log(0.9)
    of_bottom = 0.5 * (residual.square() + spread) / 0.36 + math.log(0.6) - 0.5 - math.log(0.5)
    exact = {"top": of_top.mean().item(), "bottom": of_bottom.mean().item()}
    for name, part in found.rate_by_site.items():
        assert abs(part.mean - exact[name]) < 4 * part.standard_error, name
    assert abs(found.rate.mean - sum(exact.values())) < 4 * found.rate.standard_error
    kl = dict(zip(found.units, found.kl_per_unit.tolist(), strict=True))
    errors = dict(zip(found.units, found.kl_per_unit_errors.tolist(), strict=True))
    assert list(kl) == (["bottom[0]", "top[0]"] if upwards else ["top[0]", "bottom[0]"])
    for name, value in exact.items():
        assert abs(kl[f"{name}[0]"] - value) < 4 * errors[f"{name}[0]"] + 1e-9, name
    assert found.no_kl == (("bottom",) if upwards else ())
    assert found.why_not == {}
    assert "in top" in str(found)


def test_a_part_of_the_rate_that_is_no_kl_tells_of_no_collapse():
    """The part of the bottom is negative, and its unit follows x all the same."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(top, 0.1).to_event(1))
            pyro.sample("x", dist.Normal(bottom, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            bottom = pyro.sample("bottom", dist.Normal(0.5 * x, 0.7).to_event(1))
            pyro.sample("top", dist.Normal(bottom, 0.1).to_event(1))

    found = latent_statistics(model, guide, X, num_samples=200, seed=0)
    assert found.rate_by_site["bottom"].mean < 0
    assert not found.collapsed.any()
