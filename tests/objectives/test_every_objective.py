"""What every objective owes. An objective without an entry below fails; it is not skipped."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import ELBO, SVI
from torch.testing import assert_close

from pyro_vae import fit, objectives
from pyro_vae.fit.steps.gradients import BatchLoss, TracedGradients
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.parts import own_parts
from pyro_vae.programs.modules import local_params

MAKE = {
    "AnalyticKL": lambda: objectives.AnalyticKL(),
    "BetaELBO": lambda: objectives.BetaELBO(),
    "CIWAE": lambda: objectives.CIWAE(0.3, 3),
    "DReG": lambda: objectives.DReG(3),
    "FreeBits": lambda: objectives.FreeBits(0.0),
    "IWAE": lambda: objectives.IWAE(3),
    "MIWAE": lambda: objectives.MIWAE(2, 3),
    "PIWAE": lambda: objectives.PIWAE(2, 3),
    "RenyiBound": lambda: objectives.RenyiBound(0.5, 3),
    "ReweightedWakeSleep": lambda: objectives.ReweightedWakeSleep(3, 0.5),
    "StickingTheLanding": lambda: objectives.StickingTheLanding(),
    "Trace_ELBO": lambda: objectives.Trace_ELBO(),
}


def make(name):
    assert name in MAKE, f"objective {name} has no entry in MAKE of {__file__}"
    return MAKE[name]()


def test_every_objective_is_here_and_has_a_name():
    assert set(objectives.__all__) == set(MAKE)
    assert set(own_parts("objective").values()) == {getattr(objectives, name) for name in objectives.__all__}


every_objective = pytest.mark.parametrize("name", objectives.__all__)


def pair():
    torch.manual_seed(0)
    return LinearGaussian(4, 2).double(), MeanFieldGuide((4,), 2, (5,)).double(), torch.randn(6, 4).double()


def value_and_gradients(loss_function, model, guide, x):
    """Parameters keep to the modules, as in ``fit``."""
    parameters = [*model.parameters(), *guide.parameters()]
    torch.manual_seed(7)
    with local_params(model, guide):
        loss = loss_function(model, guide, x)
        return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]


@every_objective
def test_every_way_to_ask_for_the_loss_gives_the_same_value_and_gradient(name):
    objective, (model, guide, x) = make(name), pair()
    assert isinstance(objective, ELBO)
    expected = value_and_gradients(objective.differentiable_loss, model, guide, x)
    assert all(gradient.isfinite().all() for gradient in expected)
    for other in (tensor_loss(objective), lambda model, guide, x: objective(model, guide)(x)):
        assert_close(value_and_gradients(other, model, guide, x), expected, rtol=1e-10, atol=1e-10)
    torch.manual_seed(7)
    assert objective.loss(model, guide, x) == pytest.approx(expected[0].item(), rel=1e-10)


@every_objective
def test_svi_takes_it(name):
    """As Pyro's users write it, with the global parameter store."""
    torch.manual_seed(0)
    x = torch.randn(50, 1) * 2 + 3

    def model(x):
        loc = pyro.param("prior_loc", torch.zeros(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        slope, log_scale = pyro.param("slope", torch.zeros(1)), pyro.param("log_scale", torch.zeros(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, log_scale.exp()).to_event(1))

    objective = make(name)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=objective)
    losses = [svi.step(x) for _ in range(150)]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    values = {name: value.item() for name, value in pyro.get_param_store().items()}
    assert set(values) == {"prior_loc", "slope", "log_scale"}
    assert values["prior_loc"] > 0.5
    assert values["slope"] > 0.2
    assert isinstance(svi.evaluate_loss(x), float)


@every_objective
def test_an_exact_guide_has_the_evidence_for_its_loss(name, linear_gaussian):
    # The posterior's dims are correlated.
    objective = objectives.FreeBits(0.0, per="site") if name == "FreeBits" else make(name)
    x = linear_gaussian.data(7)
    loss = objective.loss(linear_gaussian.model, linear_gaussian.exact_guide, x)
    assert loss == pytest.approx(-linear_gaussian.evidence(x).sum().item(), rel=1e-9)


@every_objective
def test_a_scale_around_the_pair_scales_loss_and_gradient(name):
    """Nothing is inside a logarithm that should be outside."""
    objective, (model, guide, x) = make(name), pair()
    expected = value_and_gradients(objective.differentiable_loss, model, guide, x)

    def scaled(model, guide, x):
        with poutine.scale(scale=0.1):
            return objective.differentiable_loss(model, guide, x)

    found = value_and_gradients(scaled, model, guide, x)
    assert_close(found, [0.1 * value for value in expected], rtol=1e-9, atol=1e-9)


@every_objective
@pytest.mark.parametrize("warmup", [False, True])
def test_the_captured_step_is_the_eager_one(name, warmup, caplog):
    objective, (model, guide, x) = make(name), pair()
    parameters = [*model.parameters(), *guide.parameters()]

    def eager(model, guide, x):
        with KLWeight(torch.tensor(0.3).double() if warmup else torch.ones(()).double()):
            return objective.differentiable_loss(model, guide, x)

    expected = value_and_gradients(eager, model, guide, x)
    step = TracedGradients(BatchLoss(model, guide, objective, lambda rows: rows, parameters, [model, guide], warmup))
    step(x, torch.tensor(0.3).double())
    torch.manual_seed(7)
    found = step(x, torch.tensor(0.3).double())
    assert step.level == "trace", caplog.messages
    assert_close(found, expected, rtol=1e-8, atol=1e-8)


@every_objective
def test_fit_raises_the_bound(name):
    model, guide, _ = pair()
    torch.manual_seed(1)
    x = (torch.randn(200, 2) @ torch.randn(2, 4)).double() + 0.3 * torch.randn(200, 4).double()
    run = fit(model, guide, x[:160], valid=x[160:], objective=make(name), epochs=15, batch_size=20, seed=0)
    bounds = [row["valid_bound_nats"] for row in run.history]
    assert bounds[-1] > bounds[0] + 0.3
    assert run.compiled == "trace"


@every_objective
def test_a_guide_without_reparameterized_samples_gets_a_gradient_or_a_refusal(name):
    """Never a silent zero."""
    logit = torch.zeros(50, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    objective, x = make(name), torch.randn(50)
    if name in ("AnalyticKL", "DReG", "FreeBits", "PIWAE", "StickingTheLanding"):
        with pytest.raises(ValueError, match=f"{name}: needs reparameterized samples"):
            objective.differentiable_loss(model, guide, x)
        return
    (gradient,) = torch.autograd.grad(objective.differentiable_loss(model, guide, x), logit)
    assert (gradient != 0).float().mean() > 0.5


@every_objective
def test_one_objective_serves_one_pair_after_another(name):
    objective = make(name)
    model, guide, x = pair()
    first = value_and_gradients(objective.differentiable_loss, model, guide, x)
    other = LinearGaussian(3, 1).double(), MeanFieldGuide((3,), 1, (5,)).double()
    value_and_gradients(objective.differentiable_loss, *other, torch.randn(4, 3).double())
    assert_close(value_and_gradients(objective.differentiable_loss, model, guide, x), first, rtol=0, atol=0)


def test_a_pair_that_does_not_vectorize_is_looped(caplog):
    """Same estimate, one sample after another, under the same noise: a guide whose noise is drawn beforehand."""
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 5, dtype=torch.float64)

    class Fixed(dist.Normal):
        """Its samples come from `noise`, one row a call."""

        calls = 0

        def rsample(self, _sample_shape=()):
            row = noise[: self.batch_shape[0]] if len(self.batch_shape) > 1 else noise[Fixed.calls % 4]
            Fixed.calls += 1
            return self.loc + self.scale * row

    def model(x, refuse):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            if refuse and z.ndim > 1:
                raise ValueError("one batch dim only")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x, refuse):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Fixed(x @ weight, torch.full((5,), 0.8).double()))

    x = torch.randn(5, 3).double()
    for make_one in (lambda: objectives.IWAE(4), lambda: objectives.DReG(4), lambda: objectives.PIWAE(2, 2)):
        found = []
        for refuse in (True, False):
            objective = make_one()
            objective.loss(model, guide, x, refuse)
            Fixed.calls = 0
            loss = objective.differentiable_loss(model, guide, x, refuse)
            found.append((loss.detach(), *torch.autograd.grad(loss, weight)))
        assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert sum("one batch dim only" in message for message in caplog.messages) == 3
