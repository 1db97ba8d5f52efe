"""The beta-ELBO against the KL weight by hand, its schedules, and a captured step that follows them."""

import pytest
import torch
from gaussian_toy import Toy
from pyro.infer import Trace_ELBO
from torch.testing import assert_close

from pyro_vae import fit
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian
from pyro_vae.objectives import BetaELBO
from pyro_vae.objectives.kl_weight import KLWeight
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
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaELBO(**arguments)


class TestContract(ObjectiveSuite):
    part = "beta_elbo"
