"""The VampPrior by its formula, by quadrature, as the aggregate posterior, and as one module with its guide."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.testing import assert_close

from pyro_vae import fit, load_run, log_weights
from pyro_vae.errors import RunError
from pyro_vae.fit.parameters import Parameters
from pyro_vae.guides import FullRankGuide, HouseholderGuide, LowRankGuide, MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.priors import VampPrior
from pyro_vae.models.priors.vamp import InwardClamp
from pyro_vae.testing import PriorSuite

X_SHAPE = (1, 3, 2)
GUIDES = [FullRankGuide, HouseholderGuide, LowRankGuide, MeanFieldGuide]


def vamp(guide_class=MeanFieldGuide, latent_dim=2, num_components=5, **bounds):
    guide = guide_class(X_SHAPE, latent_dim, (4,)).double()
    return VampPrior(latent_dim, guide, torch.rand(9, *X_SHAPE).double(), num_components, **bounds)


@pytest.mark.parametrize("guide_class", GUIDES)
def test_the_density_is_the_average_of_the_posteriors(guide_class):
    prior, z = vamp(guide_class), torch.randn(7, 2).double()
    each = [prior.guide.posterior(u[None]).log_prob(z).exp() for u in prior.pseudo_inputs]
    assert_close(prior().log_prob(z), (sum(each) / 5).log(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_it_integrates_to_one(latent_dim):
    """A sum over a grid of a smooth density that vanishes at the ends is exact to rounding."""
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim)
    with torch.no_grad():
        total = vamp(latent_dim=latent_dim)().log_prob(z).exp().sum() * (axis[1] - axis[0]) ** latent_dim
    assert_close(total.item(), 1.0, rtol=1e-8, atol=0)


def test_draws_follow_the_density():
    """The share of draws below each of nine points, within 4 standard errors of the integral up to there."""
    prior, n = vamp(latent_dim=1).requires_grad_(False), 100_000
    q = prior.guide.posterior(prior.pseudo_inputs).base_dist
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    exact = torch.distributions.Normal(q.loc[:, 0], q.scale[:, 0]).cdf(points[:, None]).mean(-1)
    share = (prior().sample((n,)) <= points).double().mean(0)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()


def test_with_all_data_as_pseudo_inputs_the_rate_is_the_information_on_the_datum():
    r"""ELBO surgery (Hoffman and Johnson 2016): the mean of KL(q(z|x_n) || p) is I(n; z) + KL(q(z) || p).

    Where p is the aggregate posterior q(z), the second term is 0, and I = H(q(z)) - mean H(q(z | x_n)), one entropy
    by quadrature, the others in closed form.
    """
    x = torch.rand(6, *X_SHAPE).double()
    guide = MeanFieldGuide(X_SHAPE, 1, (4,)).double().requires_grad_(False)
    prior = VampPrior(1, guide, x, num_components=6)
    z = torch.linspace(-25, 25, 20_001, dtype=torch.float64)[:, None]
    width = (z[1] - z[0]).item()
    q = guide.posterior(x)
    densities = q.log_prob(z[:, None]).exp()
    aggregate = densities.mean(1)
    assert_close(prior().log_prob(z).exp(), aggregate, rtol=1e-10, atol=1e-300)
    entropy = -torch.special.xlogy(aggregate, aggregate).sum() * width
    conditional = (0.5 * (2 * math.pi * math.e * q.variance).log()).mean()
    rate = (densities * (q.log_prob(z[:, None]) - prior().log_prob(z)[:, None])).sum(0) * width
    assert_close(rate.mean(), entropy - conditional, rtol=1e-9, atol=1e-9)
    assert 0 < rate.mean() < math.log(6)


def test_pseudo_inputs_start_at_distinct_data():
    data = torch.rand(9, *X_SHAPE)
    prior = VampPrior(2, MeanFieldGuide(X_SHAPE, 2, (4,)), data, num_components=9)
    order = [next(n for n in range(9) if torch.equal(u, data[n])) for u in prior.pseudo_inputs]
    assert sorted(order) == list(range(9))
    with torch.no_grad():
        prior.pseudo_inputs.zero_()
    assert data.min() > 0


def test_pseudo_inputs_are_clamped_and_find_back():
    """Gradient descent on (v - 0.4)^2, v clamped: from beyond either edge to 0.4; towards 2, it stops at 1."""
    for target, end in ((0.4, 0.4), (2.0, 1.0)):
        u = torch.tensor([-0.5, 0.2, 1.5], dtype=torch.float64, requires_grad=True)
        for _ in range(200):
            v = InwardClamp.apply(u, 0.0, 1.0)
            assert ((v >= 0) & (v <= 1)).all()
            (grad,) = torch.autograd.grad((v - target).square().sum(), u)
            u = (u - 0.1 * grad).detach().requires_grad_()
        assert_close(InwardClamp.apply(u, 0.0, 1.0), torch.full((3,), end, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert u.max() < 1.5 + 1e-9


def test_the_posterior_sees_no_value_outside_the_range():
    prior = vamp()
    with torch.no_grad():
        prior.pseudo_inputs.mul_(9).sub_(4)
        inside = prior.guide.posterior(prior.pseudo_inputs.clamp(0, 1)).base_dist
        assert torch.equal(prior().component_distribution.base_dist.loc, inside.loc)


def test_the_guides_mode_is_the_priors():
    guide = MeanFieldGuide(X_SHAPE, 2, encoder=nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)))
    prior, z = VampPrior(2, guide, torch.rand(9, *X_SHAPE), 3), torch.randn(4, 2)
    assert not torch.equal(prior().log_prob(z), prior().log_prob(z))
    guide.eval()
    assert torch.equal(prior().log_prob(z), prior().log_prob(z))


# ---------------------------------------------------------------- one module with its guide


def make_pair():
    torch.manual_seed(3)
    guide = MeanFieldGuide(X_SHAPE, 2, (4,))
    prior = VampPrior(2, guide, torch.rand(20, *X_SHAPE), 5)
    return VAE(X_SHAPE, 2, (4,), prior=prior), guide


def run(pair, epochs, **options):
    x = torch.rand(40, *X_SHAPE, generator=torch.Generator().manual_seed(0)).round()
    return fit(*pair, x, batch_size=10, epochs=epochs, seed=0, progress=False, **options)


def test_the_guides_parameters_are_trained_and_kept_once():
    model, guide = make_pair()
    parameters = Parameters.of(model, guide, torch.rand(4, *X_SHAPE).round())
    every = [*model.likelihood.parameters(), model.prior.pseudo_inputs, *guide.parameters()]
    assert sorted(map(id, parameters.trainable)) == sorted(map(id, every))
    assert len(parameters.state()) == len(every)


def test_a_step_of_pyros_svi_moves_every_parameter_once():
    """Adam's first step is the learning rate long, whatever the gradient, where there is one."""
    model, guide = make_pair()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(torch.rand(20, *X_SHAPE).round())
    for name, value in model.state_dict().items():
        assert 0.005 < (value - before[name]).abs().max() < 0.0101, name


@pytest.mark.parametrize("compile_", ["trace", "off"])
def test_a_run_trains_guide_and_pseudo_inputs_and_is_taken_up_again(tmp_path, compile_):
    """Two epochs, and one and one, end with the same bits; loaded into the pair made anew, they give the same."""
    whole, halves, start = make_pair(), make_pair(), make_pair()
    done = run(whole, 2, out=tmp_path / "whole", compile=compile_)
    assert done.compiled == compile_
    run(halves, 1, out=tmp_path / "halves", compile=compile_)
    again = make_pair()
    run(again, 2, out=tmp_path / "halves", compile=compile_, resume=True)
    expected = whole[0].state_dict()
    for name, value in again[0].state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert not torch.equal(value, start[0].state_dict()[name]), name
    loaded = make_pair()
    load_run(tmp_path / "whole", *loaded)
    assert torch.equal(loaded[0].prior.pseudo_inputs, whole[0].prior.pseudo_inputs)
    assert loaded[0].prior.guide is loaded[1]
    x = torch.rand(7, *X_SHAPE).round()
    torch.manual_seed(0)
    expected = log_weights(*whole, x, 3)
    torch.manual_seed(0)
    assert torch.equal(log_weights(*loaded, x, 3), expected)


def test_a_run_folder_gives_the_pair_back_without_its_data(tmp_path):
    fitted = make_pair()
    run(fitted, 1, out=tmp_path)
    loaded = load_run(tmp_path)
    assert loaded.model.prior.guide is loaded.guide
    assert torch.equal(loaded.model.prior.pseudo_inputs, fitted[0].prior.pseudo_inputs)
    # A model whose prior has another guide than the pair's is not the one that was fitted.
    model, _ = make_pair()
    with pytest.raises(RunError, match="parameters are not those of"):
        load_run(tmp_path, model)


# ---------------------------------------------------------------- what it refuses


def test_a_guide_without_posterior_is_refused_and_told_one_that_has_it():
    class Sampler(nn.Module):
        def forward(self, x):
            return pyro.sample("z", dist.Normal(x, 1.0))

    for guide in (Sampler(), lambda x: x):
        with pytest.raises(ValueError, match=r"(Sampler|function) has none"):
            VampPrior(2, guide, torch.rand(9, *X_SHAPE))


def test_infinite_bounds_leave_the_pseudo_inputs_free():
    prior = vamp(low=-math.inf, high=math.inf)
    with torch.no_grad():
        prior.pseudo_inputs.mul_(9).sub_(4)
        free = prior.guide.posterior(prior.pseudo_inputs).base_dist
        assert torch.equal(prior().component_distribution.base_dist.loc, free.loc)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.0, 0.0), (math.inf, math.inf), (math.nan, 1.0)])
def test_bounds_that_leave_no_value_are_refused(low, high):
    with pytest.raises(ValueError, match=r"VampPrior: low must be"):
        vamp(low=low, high=high)


@pytest.mark.parametrize("num_components", [0, 10])
def test_a_number_of_components_that_data_cannot_start_is_refused(num_components):
    with pytest.raises(ValueError, match=f"from 1 to 9 .*; got {num_components}"):
        vamp(num_components=num_components)


def test_pixels_as_stored_are_refused():
    data = torch.randint(256, (9, *X_SHAPE), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"uint8\..*data\.observe"):
        VampPrior(2, MeanFieldGuide(X_SHAPE, 2), data, 3)


def test_another_latent_dim_than_the_guides_is_refused():
    prior = VampPrior(3, MeanFieldGuide(X_SHAPE, 2, (4,)), torch.rand(9, *X_SHAPE), 3)
    with pytest.raises(ValueError, match=r"latent_dim is 3, .*shape \(2,\)"):
        prior()


class TestContract(PriorSuite):
    part = "vamp(num_components=3)"
