"""The path derivative: no noise at the posterior, no bias anywhere, with several and with auxiliary sites too."""

import pyro
import pytest
import torch
from gaussian_toy import Toy, z_scores
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from pyro_vae.objectives import StickingTheLanding
from pyro_vae.testing import ObjectiveSuite


def test_the_guides_gradient_is_zero_in_each_draw_where_it_is_the_posterior():
    toy = Toy(50).at_the_posterior()
    loc, log_scale, _ = toy.gradients(StickingTheLanding())
    assert_close(loc, torch.zeros_like(loc), atol=1e-12, rtol=0)
    assert_close(log_scale, torch.zeros_like(log_scale), atol=1e-12, rtol=0)
    assert toy.gradients(Trace_ELBO())[0].std() > 0.1


def test_it_is_an_unbiased_gradient_of_the_elbo():
    """Against the closed form; 50 000 draws, 4 standard errors."""
    one, many = Toy(1), Toy(50_000)
    exact = torch.autograd.grad(one.elbo().sum(), one.parameters())
    for draws, value in zip(many.gradients(StickingTheLanding()), exact, strict=True):
        assert (z_scores(draws, value[0]).abs() < 4).all()


def test_the_loss_is_the_elbos_and_the_models_gradient_too():
    toy = Toy(6)
    assert_close(toy.gradients(StickingTheLanding())[2], toy.gradients(Trace_ELBO())[2], rtol=1e-12, atol=1e-12)
    losses = []
    for objective in (StickingTheLanding(), Trace_ELBO()):
        torch.manual_seed(3)
        losses.append(objective.loss(toy.model, toy.guide, toy.x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


class Chain:
    """z1 ~ N(0, 1), z2 ~ N(z1, 1), x ~ N(z2, 1); the guide's exact factors q(z2) q(z1 | z2), in copies."""

    def __init__(self, rows, auxiliary=False):
        values = (0.5, 0.0, -0.5) if auxiliary else (2 / 3, 0.0, 0.5)
        self.parameters = [torch.full((rows,), v, dtype=torch.float64, requires_grad=True) for v in values]
        self.auxiliary = auxiliary

    def model(self, x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Normal(torch.zeros(()).double(), 1.0))
            second = pyro.sample("second", dist.Normal(first, 1.0))
            pyro.sample("x", dist.Normal(second, 1.0), obs=x)

    def guide(self, x):
        slope, offset, back = self.parameters
        with pyro.plate("data", len(x)):
            second = pyro.sample(
                "second", dist.Normal(slope * x + offset, torch.tensor(2 / 3, dtype=torch.float64).sqrt())
            )
            pyro.sample("first", dist.Normal(back * second, torch.tensor(0.5, dtype=torch.float64).sqrt()))


def gradients(pair, objective, x):
    torch.manual_seed(0)
    loss = objective.differentiable_loss(pair.model, pair.guide, x)
    return torch.autograd.grad(loss, pair.parameters)


def test_sites_that_depend_on_one_another():
    """Exact: zero in each draw. Inexact: unbiased for the ELBO's, 100 000 draws, 4 standard errors."""
    chain = Chain(40)
    for value in gradients(chain, StickingTheLanding(), torch.full((40,), 0.9).double()):
        assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)
    many, x = Chain(100_000), torch.full((100_000,), 0.9).double()
    with torch.no_grad():
        for value in many.parameters:
            value += 0.2
    exact = gradients(many, Trace_ELBO(), x)
    for ours, stock in zip(gradients(many, StickingTheLanding(), x), exact, strict=True):
        difference = ours - stock
        assert abs(z_scores(difference, torch.zeros(()))) < 4
        assert ours.std() < stock.std()


class WithAuxiliary:
    """z ~ N(0, 1), x ~ N(z, 1); the guide draws v, then z given v, and divides by r(v | z)."""

    def __init__(self, rows):
        self.parameters = [torch.full((rows,), v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.6, 0.1)]

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        loc, slope, back = self.parameters
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(loc, 1.0), infer={"is_auxiliary": True})
            z = pyro.sample("z", dist.Normal(slope * v, 0.7))
            pyro.factor("reverse", -dist.Normal(back * z, 1.1).log_prob(v), has_rsample=True)


def test_auxiliary_sites_are_unbiased_too():
    """Against Trace_ELBO under the same noise; 100 000 draws, 4 standard errors."""
    pair, x = WithAuxiliary(100_000), torch.full((100_000,), 0.9).double()
    ours, stock = (gradients(pair, objective, x) for objective in (StickingTheLanding(), Trace_ELBO()))
    for i in range(2):
        assert abs(z_scores(ours[i] - stock[i], torch.zeros(()))) < 4
    # The reverse model has no score to leave out.
    assert_close(ours[2], stock[2], rtol=1e-10, atol=1e-10)
    assert ours[2].abs().mean() > 0.01


def test_a_site_without_reparameterization_is_refused_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("switch", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    logit = torch.zeros(4, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("switch", dist.Bernoulli(logits=logit))

    with pytest.raises(ValueError, match="site 'switch' has none"):
        StickingTheLanding().differentiable_loss(model, guide, torch.zeros(4))


def test_a_guide_whose_density_changes_from_run_to_run_is_refused():
    """Dropout, and a site that depends on another: a second run would score the samples under another law."""
    net, chain = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)), Chain(4)

    def guide(x):
        with pyro.plate("data", len(x)):
            second = pyro.sample("second", dist.Normal(net(x[:, None].float())[:, 0].double(), 1.0))
            pyro.sample("first", dist.Normal(second, 1.0))

    x = torch.ones(4).double()
    with pytest.raises(ValueError, match=r"a run of its own, .*dropout"):
        StickingTheLanding().differentiable_loss(chain.model, guide, x)
    net.eval()
    assert StickingTheLanding().differentiable_loss(chain.model, guide, x).isfinite()


class TestContract(ObjectiveSuite):
    part = "sticking_the_landing"
    needs_reparameterized_samples = True
