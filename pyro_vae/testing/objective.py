"""What every objective owes."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from torch.testing import assert_close

from pyro_vae.fit import fit
from pyro_vae.fit.steps.gradients import BatchLoss, TracedGradients
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import LinearGaussian
from pyro_vae.objectives.kl_weight import KLWeight
from pyro_vae.objectives.tensor_loss import tensor_loss
from pyro_vae.parts import make_objective
from pyro_vae.programs.modules import local_params
from pyro_vae.programs.sites import LATENT, OBSERVED, PLATE
from pyro_vae.testing.suite import Suite, refuses

Loss = Callable[[Any, Any, Tensor], Tensor]


class ObjectiveSuite(Suite):
    """Tests of an objective, on linear Gaussian models.

    Attributes:
        needs_reparameterized_samples: whether it refuses a guide that draws discrete values.
    """

    needs_reparameterized_samples: ClassVar[bool] = False

    def make(self) -> Any:
        """Return a new objective."""
        return make_objective(self.part)

    def make_for_correlated_dims(self) -> Any:
        """Return an objective that is the evidence where the guide is exact and z's dims are correlated."""
        return self.make()

    def test_every_way_to_ask_for_the_loss_gives_the_same_value_and_gradient(self) -> None:
        """Be an ELBO of Pyro's, whose loss is the same as a number, as a tensor and as a module."""
        objective, (model, guide, x) = self.make(), _pair()
        assert isinstance(objective, ELBO)
        expected = _value_and_gradients(objective.differentiable_loss, model, guide, x)
        assert all(gradient.isfinite().all() for gradient in expected)
        for other in (tensor_loss(objective), lambda model, guide, x: objective(model, guide)(x)):
            assert_close(_value_and_gradients(other, model, guide, x), expected, rtol=1e-10, atol=1e-10)
        torch.manual_seed(7)
        _assert_near(objective.loss(model, guide, x), expected[0].item(), 1e-10)

    def test_svi_takes_it(self) -> None:
        """Train as Pyro's users write it, with the global parameter store."""
        torch.manual_seed(0)
        x = torch.randn(50, 1) * 2 + 3

        def model(x: Tensor) -> None:
            loc = pyro.param("prior_loc", torch.zeros(1))
            with pyro.plate(PLATE, len(x)):
                z = pyro.sample(LATENT, dist.Normal(loc, 1.0).to_event(1))
                pyro.sample(OBSERVED, dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            slope, log_scale = pyro.param("slope", torch.zeros(1)), pyro.param("log_scale", torch.zeros(1))
            with pyro.plate(PLATE, len(x)):
                pyro.sample(LATENT, dist.Normal(slope * x, log_scale.exp()).to_event(1))

        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=self.make())
        losses = [svi.step(x) for _ in range(150)]
        assert sum(losses[-20:]) < 0.8 * sum(losses[:20]), f"the loss went from {losses[0]} to {losses[-1]}"
        values = {name: value.item() for name, value in pyro.get_param_store().items()}
        assert set(values) == {"prior_loc", "slope", "log_scale"}
        assert values["prior_loc"] > 0.5, values
        assert values["slope"] > 0.2, values
        assert isinstance(svi.evaluate_loss(x), float)

    def test_an_exact_guide_has_the_evidence_for_its_loss(self) -> None:
        """Be minus log p(x), summed over the batch, where the guide is the posterior."""
        loadings, bias = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        model = LinearGaussian.from_values(loadings, bias, 0.6).requires_grad_(False)
        x = model.evidence().sample((7,))

        def exact_guide(x: Tensor) -> Tensor:
            with pyro.plate(PLATE, len(x), dim=-1):
                z: Tensor = pyro.sample(LATENT, model.posterior(x))
            return z

        loss = self.make_for_correlated_dims().loss(model, exact_guide, x)
        _assert_near(loss, -model.evidence().log_prob(x).sum().item(), 1e-9)

    def test_a_scale_around_the_pair_scales_loss_and_gradient(self) -> None:
        """Have nothing inside a logarithm that should be outside."""
        objective, (model, guide, x) = self.make(), _pair()
        expected = _value_and_gradients(objective.differentiable_loss, model, guide, x)

        def scaled(model: Any, guide: Any, x: Tensor) -> Tensor:
            with poutine.scale(scale=0.1):
                loss: Tensor = objective.differentiable_loss(model, guide, x)
            return loss

        result = _value_and_gradients(scaled, model, guide, x)
        assert_close(result, [0.1 * value for value in expected], rtol=1e-9, atol=1e-9)

    def test_the_captured_step_is_the_eager_one(self) -> None:
        """Give the same loss and gradient as a recorded graph, with a KL weight and without."""
        for warmup in (False, True):
            objective, (model, guide, x) = self.make(), _pair()
            parameters = [*model.parameters(), *guide.parameters()]
            weight = torch.tensor(0.3 if warmup else 1.0).double()

            def eager(model: Any, guide: Any, x: Tensor, objective: Any = objective, weight: Tensor = weight) -> Tensor:
                with KLWeight(weight):
                    loss: Tensor = objective.differentiable_loss(model, guide, x)
                return loss

            expected = _value_and_gradients(eager, model, guide, x)
            owners: list[nn.Module] = [model, guide]
            step = TracedGradients(BatchLoss(model, guide, objective, lambda rows: rows, parameters, owners, warmup))
            step(x, torch.tensor(0.3).double())
            torch.manual_seed(7)
            result = step(x, torch.tensor(0.3).double())
            assert step.level == "trace", "the step was not recorded: the log says why"
            assert_close(result, expected, rtol=1e-8, atol=1e-8)

    def test_fit_raises_the_bound(self) -> None:
        """Train by ``pyro_vae.fit``, with recorded steps."""
        model, guide, _ = _pair()
        torch.manual_seed(1)
        x = (torch.randn(200, 2) @ torch.randn(2, 4)).double() + 0.3 * torch.randn(200, 4).double()
        run = fit(model, guide, x[:160], valid=x[160:], objective=self.make(), epochs=15, batch_size=20, seed=0)
        bounds = [row["valid_bound_nats"] for row in run.history]
        assert bounds[-1] > bounds[0] + 0.3, f"the bound went from {bounds[0]} to {bounds[-1]} nats"
        assert run.compiled == "trace", f"steps were run as {run.compiled}"

    def test_a_guide_without_reparameterized_samples_gets_a_gradient_or_a_refusal(self) -> None:
        """Have a gradient for a discrete guide or refuse it, and never give a silent zero."""
        logit = torch.zeros(50, requires_grad=True)

        def model(x: Tensor) -> None:
            with pyro.plate(PLATE, len(x)):
                z = pyro.sample(LATENT, dist.Bernoulli(0.3))
                pyro.sample(OBSERVED, dist.Normal(2 * z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate(PLATE, len(x)):
                pyro.sample(LATENT, dist.Bernoulli(logits=logit))

        objective, x = self.make(), torch.randn(50)
        if self.needs_reparameterized_samples:
            with refuses(f"{type(objective).__name__}: needs reparameterized samples"):
                objective.differentiable_loss(model, guide, x)
            return
        (gradient,) = torch.autograd.grad(objective.differentiable_loss(model, guide, x), logit)
        assert (gradient != 0).float().mean() > 0.5, "the gradient is 0"

    def test_one_objective_serves_one_pair_after_another(self) -> None:
        """Keep nothing of a pair."""
        objective = self.make()
        model, guide, x = _pair()
        first = _value_and_gradients(objective.differentiable_loss, model, guide, x)
        other = LinearGaussian(3, 1).double(), MeanFieldGuide((3,), 1, (5,)).double()
        _value_and_gradients(objective.differentiable_loss, *other, torch.randn(4, 3).double())
        assert_close(_value_and_gradients(objective.differentiable_loss, model, guide, x), first, rtol=0, atol=0)


def _pair() -> tuple[LinearGaussian, MeanFieldGuide, Tensor]:
    torch.manual_seed(0)
    return LinearGaussian(4, 2).double(), MeanFieldGuide((4,), 2, (5,)).double(), torch.randn(6, 4).double()


def _value_and_gradients(loss_function: Loss, model: Any, guide: Any, x: Tensor) -> list[Tensor]:
    """Parameters keep to the modules, as in ``fit``."""
    parameters = [*model.parameters(), *guide.parameters()]
    torch.manual_seed(7)
    with local_params(model, guide):
        loss = loss_function(model, guide, x)
        return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]


def _assert_near(result: float, expected: float, relative: float) -> None:
    assert math.isclose(result, expected, rel_tol=relative), f"expected a loss of {expected}; got {result}"
