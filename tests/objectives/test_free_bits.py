"""Free bits against the closed KL of each dim: free below the floor, charged above it."""

import pyro
import pytest
import torch
from gaussian_toy import Toy
from layered_toy import Layers
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.objectives import AnalyticKL, FreeBits
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.programs.pair import Pair
from pyro_vae.testing import ObjectiveSuite


def toy_with_different_rates():
    """The second dim's q is the prior, nearly: a KL of 0.005 nats against 2.3 of the first."""
    toy = Toy(6)
    with torch.no_grad():
        toy.loc[:, 0], toy.loc[:, 1] = 2.0, 0.1
        toy.log_scale[:] = torch.tensor([-0.3, 0.0])
    return toy


def reconstruction(toy):
    z = toy.loc + toy.log_scale.exp() * toy.noise(1)[0]
    return dist.Normal(z + toy.shift, 0.8).log_prob(toy.x).sum()


def rates(toy):
    return (0.5 * (toy.loc.square() + (2 * toy.log_scale).exp() - 1) - toy.log_scale).mean(0)


def test_a_dim_below_the_floor_gets_no_gradient_from_its_kl_and_one_above_all_of_it():
    toy = toy_with_different_rates()
    found = toy.gradients(FreeBits(floor=0.1))
    without = torch.autograd.grad(reconstruction(toy), toy.parameters())
    charged = torch.autograd.grad(reconstruction(toy) - 6 * rates(toy).sum(), toy.parameters())
    for i in range(2):
        assert_close(found[i][:, 1], without[i][:, 1], rtol=1e-10, atol=1e-12)
        assert_close(found[i][:, 0], charged[i][:, 0], rtol=1e-10, atol=1e-12)
    assert (charged[0] - without[0]).abs().min() > 0.01


@pytest.mark.parametrize(("per", "floor"), [("dim", 0.1), ("site", 0.1), ("site", 10.0), ("dim", 0.0)])
def test_the_loss_charges_the_larger_of_floor_and_rate(per, floor):
    toy = toy_with_different_rates()
    rate = rates(toy) if per == "dim" else rates(toy).sum()
    exact = 6 * rate.clamp(min=floor).sum() - reconstruction(toy)
    torch.manual_seed(0)
    assert FreeBits(floor, per).loss(toy.model, toy.guide, toy.x) == pytest.approx(exact.item(), rel=1e-12)


def test_a_floor_of_zero_is_the_elbo_also_under_a_kl_weight():
    toy = toy_with_different_rates()
    for weight in (1.0, 0.25):
        with KLWeight(torch.tensor(weight).double()):
            found, exact = toy.gradients(FreeBits(0.0)), toy.gradients(AnalyticKL())
        for ours, stock in zip(found, exact, strict=True):
            assert_close(ours, stock, rtol=1e-10, atol=1e-12)


def test_a_kl_without_closed_form_is_sampled():
    """Student-t against Normal: the mean over the batch of log q - log p at the samples."""
    loc = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, loc, 1.0).to_event(1))

    toy = Toy(2)
    torch.manual_seed(0)
    loss = FreeBits(0.0).loss(toy.model, guide, toy.x)
    torch.manual_seed(0)
    z = dist.StudentT(5.0, loc, 1.0).sample((1,))[0]
    rate = dist.StudentT(5.0, loc, 1.0).log_prob(z) - dist.Normal(torch.zeros(2).double(), 1.0).log_prob(z)
    exact = rate.sum() - dist.Normal(z + toy.shift, 0.8).log_prob(toy.x).sum()
    assert loss == pytest.approx(exact.item(), rel=1e-12)


def test_masked_data_are_not_charged():
    toy, mask = toy_with_different_rates(), torch.tensor([True] * 3 + [False] * 3)
    torch.manual_seed(0)
    loss = FreeBits(0.0).loss(pyro.poutine.mask(toy.model, mask=mask), pyro.poutine.mask(toy.guide, mask=mask), toy.x)
    z = toy.loc + toy.log_scale.exp() * toy.noise(1)[0]
    kept = dist.Normal(z + toy.shift, 0.8).log_prob(toy.x)[mask].sum()
    assert loss == pytest.approx((3 * rates(toy).sum() - kept).item(), rel=1e-12)


def test_masked_data_neither_dilute_the_rates_nor_pay_the_floor():
    toy, mask = toy_with_different_rates(), torch.tensor([True] * 3 + [False] * 3)
    torch.manual_seed(0)
    masked = pyro.poutine.mask(toy.model, mask=mask), pyro.poutine.mask(toy.guide, mask=mask)
    found = FreeBits(0.3).loss(*masked, toy.x)
    z = toy.loc + toy.log_scale.exp() * toy.noise(1)[0]
    kept = dist.Normal(z + toy.shift, 0.8).log_prob(toy.x)[mask].sum()
    assert found == pytest.approx((3 * rates(toy).clamp(min=0.3).sum() - kept).item(), rel=1e-12)


def test_a_scale_of_each_datum_goes_with_its_kl():
    toy = toy_with_different_rates()
    with torch.no_grad():
        toy.loc[0] += 3
    scale = torch.tensor([5.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    scaled = pyro.poutine.scale(toy.model, scale=scale), pyro.poutine.scale(toy.guide, scale=scale)
    losses = []
    for objective in (FreeBits(0.0), AnalyticKL()):
        torch.manual_seed(0)
        losses.append(objective.loss(*scaled, toy.x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_a_plate_within_a_datum_is_summed_over():
    loc = torch.randn(4, 3, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("z", dist.Normal(loc, torch.ones(()).double()))

    x, losses = torch.randn(4, 3).double(), []
    for objective in (FreeBits(0.0, plate="data"), AnalyticKL()):
        torch.manual_seed(0)
        losses.append(objective.loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_dims_that_are_not_independent_are_refused_by_name():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))

    toy = Toy(6)
    with pytest.raises(ValueError, match="site 'z'; MultivariateNormal"):
        FreeBits(0.1).loss(toy.model, guide, toy.x)
    assert FreeBits(0.1, per="site").loss(toy.model, guide, toy.x) > 0


def test_auxiliary_sites_are_refused_by_name():
    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(v, 1.0).to_event(1))

    toy = Toy(6)
    with pytest.raises(ValueError, match="site 'v' is auxiliary"):
        FreeBits(0.1).loss(toy.model, guide, toy.x)


@pytest.mark.parametrize("per", ["site", "dim"])
@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_each_layer_is_charged_its_own_rate_or_the_floor(per, floor):
    """Of z_1 the KL to p(z_1 | z_2) at the draws of z_2, closed, meaned over them."""
    toy = Layers(50, 2, "top_down")
    torch.manual_seed(0)
    (run,) = Pair(toy.model, toy.guide, toy.x).run(toy.x, 1)
    charged = torch.zeros((), dtype=torch.float64)
    for name in ("z1", "z2"):
        q, p = (trace.nodes[name]["fn"].base_dist for trace in (run.guide_trace, run.model_trace))
        rates = torch.distributions.kl_divergence(q, p).mean((0, 1))
        charged = charged + (rates if per == "dim" else rates.sum().reshape(1)).clamp(min=floor).sum()
    exact = 50 * charged - run.terms().reconstruction.sum()
    torch.manual_seed(0)
    loss = FreeBits(floor, per).differentiable_loss(toy.model, toy.guide, toy.x)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-10)
    parameters = list(toy.parameters.values())
    found, gradients = (torch.autograd.grad(z, parameters, allow_unused=True, materialize_grads=True)
                        for z in (loss, exact))  # fmt: skip
    assert_close(found, gradients, rtol=1e-9, atol=1e-9)


def test_a_guide_from_x_upwards_is_refused():
    """p(z_1 | z_2) follows what the guide draws later, and the site's part of the rate is no divergence."""
    toy = Layers(5, 2, "bottom_up")
    with pytest.raises(ValueError, match="in different orders"):
        FreeBits(0.1).loss(toy.model, toy.guide, toy.x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1.0,), "floor must not be negative"), ((0.1, "group"), "per must .*; got 'group'")],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FreeBits(*arguments)


class TestContract(ObjectiveSuite):
    part = "free_bits(floor=0.0)"
    needs_reparameterized_samples = True

    def make_for_correlated_dims(self):
        return FreeBits(0.0, per="site")
