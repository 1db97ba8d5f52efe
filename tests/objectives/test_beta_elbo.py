"""The beta-ELBO against the KL weight by hand, its schedules, and a captured step that follows them."""

import math

import pytest
import torch
from gaussian_toy import Toy
from layered_toy import Layers
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from pyro_vae import fit
from pyro_vae.cli.signature import options_of
from pyro_vae.fit.describe import describe_settings
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian, LinearGaussianChain
from pyro_vae.objectives import IWAE, BetaELBO, StickingTheLanding
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.parts import make_objective
from pyro_vae.programs.pair import Pair
from pyro_vae.testing import ObjectiveSuite


def test_the_gradient_is_that_of_the_weighted_bound():
    toy = Toy(6)
    with KLWeight(torch.tensor(4.0)):
        exact = toy.gradients(Trace_ELBO())
    for ours, stock in zip(toy.gradients(BetaELBO(4.0)), exact, strict=True):
        assert_close(ours, stock, rtol=1e-12, atol=1e-12)
    objective = BetaELBO(4.0, warmup=8)
    assert objective.set_epoch(1) == 1.0
    for ours, stock in zip(toy.gradients(objective), toy.gradients(Trace_ELBO()), strict=True):
        assert_close(ours, stock, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({}, [1.0] * 6),
        ({"beta": 2.0, "warmup": 4}, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]),
        ({"warmup": 2, "cycle": 3}, [0.5, 1.0, 1.0, 0.5, 1.0, 1.0]),
    ],
)
def test_schedules(arguments, weights):
    objective = BetaELBO(**arguments)
    assert [objective.kl_weight_at(epoch) for epoch in range(6)] == weights


def trained(objective, compile="trace", epochs=4):
    torch.manual_seed(0)
    model, guide = LinearGaussian(4, 2), MeanFieldGuide((4,), 2, (5,))
    x = torch.randn(40, 4)
    run = fit(model, guide, x[:30], valid=x[30:], objective=objective, epochs=epochs, batch_size=10, compile=compile)
    return run, x[30:], torch.cat([p.detach().flatten() for p in (*model.parameters(), *guide.parameters())])


def test_a_captured_step_follows_the_schedule():
    runs = [trained(BetaELBO(3.0, warmup=4, cycle=4), compile) for compile in ("trace", "off")]
    assert runs[0][0].compiled == "trace"
    assert_close(runs[0][2], runs[1][2], rtol=1e-4, atol=1e-5)
    fixed = trained(BetaELBO(3.0))
    assert (fixed[2] - runs[0][2]).abs().max() > 1e-3


def test_fit_records_the_weight_of_each_epoch_and_validates_at_the_last_one():
    run, valid, _ = trained(BetaELBO(3.0, warmup=4))
    assert [row["kl_weight"] for row in run.history] == [0.75, 1.5, 2.25, 3.0]
    run, valid, _ = trained(BetaELBO(3.0, warmup=4), epochs=1)
    torch.manual_seed(0)
    exact = -BetaELBO(3.0).loss(run.model, run.guide, valid) / len(valid)
    assert run.history[0]["valid_bound_nats"] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta must be positive"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"warmup": 5, "cycle": 3}, "got warmup=5, cycle=3"),
        ({"beta": {"z1": 1.0, "z2": 0.0}}, "beta of 'z2' must be positive"),
        ({"warmup": {"z2": 5}, "cycle": 3}, "got warmup of 'z2'=5, cycle=3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaELBO(**arguments)


LAYERS = {"z1": 0.5, "z2": 3.0}


def by_site(toy, num_particles=1):
    """The toy's terms at the draws of a run under seed 0: log p(x | z), and log p - log q of each site."""
    torch.manual_seed(0)
    (run,) = Pair(toy.model, toy.guide, toy.x).run(toy.x, num_particles)
    rates = {
        name: run.log_prob([run.model_trace.nodes[name]]) - run.log_prob([run.guide_trace.nodes[name]])
        for name in ("z1", "z2")
    }
    return run.terms().reconstruction, rates


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_each_layer_has_its_own_weight(order):
    toy = Layers(6, 2, order)
    reconstruction, rates = by_site(toy)
    bound = reconstruction + 0.5 * rates["z1"] + 3 * rates["z2"]
    gradients = torch.autograd.grad(bound.sum(), list(toy.parameters.values()))
    found = toy.gradients(BetaELBO(LAYERS))
    for (name, ours), exact in zip(found.items(), gradients, strict=True):
        assert_close(ours, exact.flatten(1), rtol=1e-10, atol=1e-10, msg=name)


def test_layers_that_are_not_named_have_weight_one_and_no_warm_up():
    toy = Layers(6, 2, "top_down")
    reconstruction, rates = by_site(toy)
    for objective, weights in (
        (BetaELBO({"z2": 0.5}), (1.0, 0.5)),
        (BetaELBO(2.0, warmup={"z1": 4}), (0.5, 2.0)),
        (BetaELBO({"z2": 0.5}, warmup=4), (0.25, 0.125)),
    ):
        exact = reconstruction + weights[0] * rates["z1"] + weights[1] * rates["z2"]
        torch.manual_seed(0)
        assert objective.loss(toy.model, toy.guide, toy.x) == pytest.approx(-exact.sum().item(), rel=1e-10)
    assert BetaELBO({"z2": 0.5}, warmup=4).final().kl_weights_at(0) == {"z2": 0.5}


def test_importance_weights_take_the_weight_of_each_layer():
    """log w = log p(x | z) + sum of beta_s (log p - log q) at s, value and gradient."""
    toy = Layers(6, 2, "bottom_up")
    reconstruction, rates = by_site(toy, num_particles=5)
    exact = (reconstruction + 0.5 * rates["z1"] + 3 * rates["z2"]).logsumexp(0) - math.log(5)
    gradients = torch.autograd.grad(exact.sum(), list(toy.parameters.values()))
    weights = {name: torch.tensor(weight).double() for name, weight in LAYERS.items()}
    with KLWeight(torch.ones(()).double(), weights):
        found = toy.gradients(IWAE(5))
        torch.manual_seed(0)
        assert IWAE(5).loss(toy.model, toy.guide, toy.x) == pytest.approx(-exact.sum().item(), rel=1e-10)
    for (name, ours), gradient in zip(found.items(), gradients, strict=True):
        assert_close(ours, gradient.flatten(1), rtol=1e-9, atol=1e-9, msg=name)


def test_the_path_derivative_is_unbiased_under_weights_by_layer():
    """20 000 draws, each coordinate of 44 within 4 standard errors of its paired difference."""
    toy = Layers(20_000, 2, "bottom_up")
    weights = {name: torch.tensor(weight).double() for name, weight in LAYERS.items()}
    plain = toy.gradients(BetaELBO(LAYERS))
    with KLWeight(torch.ones(()).double(), weights):
        path = toy.gradients(StickingTheLanding())
    for name, draws in path.items():
        difference = draws - plain[name]
        errors = difference.std(0) / len(difference) ** 0.5
        assert (difference.mean(0).abs() < 4 * errors + 1e-12).all(), name


@pytest.mark.parametrize("level", ["trace", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_recorded_step_follows_the_schedule_of_each_layer(level):
    """Of layers whose warm-ups end at different epochs; a weight that was frozen would show in the parameters."""
    ends = []
    for compile in (level, "off"):
        torch.manual_seed(0)
        model, guide = LinearGaussianChain(4, 2, (3,)), LinearGaussianChain(4, 2, (3,))

        class Guide(torch.nn.Module):
            def __init__(self, guide=guide):
                super().__init__()
                self.chain = guide

            def forward(self, x):
                return self.chain.top_down(x)

        objective = BetaELBO({"z2": 2.0}, warmup={"z1": 2, "z2": 4})
        run = fit(model, Guide(), torch.randn(20, 4), objective=objective, epochs=4, batch_size=10, compile=compile)
        assert run.compiled == compile
        # The mean of the two.
        assert [row["kl_weight"] for row in run.history] == [0.5, 1.0, 1.25, 1.5]
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_a_text_of_the_part_can_hold_weights_by_layer():
    objective = make_objective("beta_elbo(beta={'z1': 1.0, 'z2': 0.5}, warmup={'z2': 2})")
    assert objective.kl_weights_at(0) == {"z1": 1.0, "z2": 0.25}
    option = options_of(BetaELBO)["warmup"]
    assert option.read("{z2: 100}") == {"z2": 100}
    assert option.read("100") == 100
    assert describe_settings(objective)["beta"] == {"z1": 1.0, "z2": 0.5}


@pytest.mark.parametrize("arguments", [{"beta": {"z3": 0.5}}, {"warmup": {"Z1": 10}}])
def test_a_weight_for_what_is_no_latent_site_is_refused_when_called(arguments):
    toy = Layers(3, 2, "top_down")
    with pytest.raises(ValueError, match=r"is no latent site.*'z1', 'z2'"):
        BetaELBO(**arguments).loss(toy.model, toy.guide, toy.x)


class TestContract(ObjectiveSuite):
    part = "beta_elbo"
