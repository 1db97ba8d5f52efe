"""p(x, z | y): exact in the linear Gaussian case, for labels, vectors and images as y."""

import math

import pytest
import torch
from conditional_linear import ConditionalLinear, conditional_linear
from pyro import poutine
from torch import nn
from torch.testing import assert_close

import pyro_vae
from pyro_vae.evaluation import active_units, ais, elbo_terms, inference_gaps, sbc
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import ConditionalVAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StudentTPrior
from pyro_vae.testing import ModelSuite

LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])

CASES = {
    "label": lambda: conditional_linear(LABELS, num_classes=3),
    "vector": lambda: conditional_linear(torch.randn(7, 3).double(), y_shape=(3,)),
    "label, conditional prior": lambda: conditional_linear(LABELS, True, num_classes=3),
    "vector, conditional prior": lambda: conditional_linear(torch.randn(7, 3).double(), True, y_shape=(3,)),
}


@pytest.fixture(params=CASES)
def case(request) -> ConditionalLinear:
    torch.manual_seed(0)
    return CASES[request.param]()


def test_every_weight_of_the_exact_guide_is_log_p_of_x_given_y(case):
    x = case.draw()
    weights = pyro_vae.log_weights(case.model, case.guide, (x, case.y), num_samples=3)
    expected = case.evidence(case.features).log_prob(x)
    assert_close(weights, expected.expand(3, 7), rtol=1e-8, atol=1e-8)
    q, z = case.guide.posterior(x, case.y), torch.randn(4, 7, 2).double()
    assert_close(q.log_prob(z), case.posterior(x, case.features).log_prob(z), rtol=1e-8, atol=1e-8)


def shifted(case):
    """Data, and the exact log p(x | y) and KL of the guide whose mean is moved away from the posterior's."""
    x = case.draw()
    posterior = case.posterior(x, case.features)
    with torch.no_grad():
        case.guide.encoder.bias[0] += 0.4
    shift = case.guide.posterior(x, case.y).mean - posterior.mean
    kl = 0.5 * torch.einsum("nd,nde,ne->n", shift, posterior.precision_matrix, shift)
    return (x, case.y), case.evidence(case.features).log_prob(x), kl


def test_bounds_of_a_guide_that_is_not_exact(case):
    """Each datum within 4 standard errors of closed forms, with 500 samples."""
    data, evidence, kl = shifted(case)
    terms = elbo_terms(case.model, case.guide, data, 500, seed=0)
    assert ((terms.elbo.per_datum - (evidence - kl)).abs() < 4 * terms.elbo.standard_errors).all()
    found = pyro_vae.log_likelihood(case.model, case.guide, data, 500, seed=0)
    assert ((found.per_datum - evidence).abs() < 4 * found.standard_errors).all()
    assert str(found).startswith("log p(x | y) >= -")


@pytest.mark.slow
def test_the_gap_of_a_guide_that_is_not_exact_is_its_kl_divergence(case):
    """Within 4 standard errors, with 2000 samples; the search for q* leaves 1e-3 nats."""
    data, _, kl = shifted(case)
    gaps = inference_gaps(
        case.model, case.guide, data, num_samples=2000, evidence_samples=2000, seed=0, progress=False,
        learning_rate=0.05, max_steps=1000,
    )  # fmt: skip
    approximation, amortization = gaps.approximation_gap, gaps.amortization_gap
    assert abs(approximation.mean) < 4 * approximation.standard_error + 1e-3
    assert abs(amortization.mean - kl.mean().item()) < 4 * amortization.standard_error + 1e-3


@pytest.mark.parametrize("name", ["label", "vector, conditional prior"])
def test_annealed_importance_sampling_finds_the_evidence(name):
    """16 chains, 20 temperatures, 7 data: within 4 standard errors."""
    torch.manual_seed(0)
    case = CASES[name]()
    x = case.draw()
    found = ais(
        case.model, (x, case.y), num_chains=16, num_temperatures=20, burn_in=20, seed=0, progress=False, compile="off"
    )
    evidence = case.evidence(case.features).log_prob(x)
    assert abs(found.mean - evidence.mean().item()) < 4 * found.standard_error
    assert str(found).startswith("log p(x | y) >= -")


@pytest.mark.parametrize("name", ["label", "vector, conditional prior"])
def test_the_exact_guide_is_calibrated_and_a_shifted_one_is_not(name):
    torch.manual_seed(0)
    case = CASES[name]()
    case.y = case.y.repeat(40, *[1] * (case.y.ndim - 1))
    data = (case.draw(), case.y)
    exact = sbc(case.model, case.guide, data, num_data=200, num_draws=20, seed=0, progress=False)
    assert exact.calibrated
    with torch.no_grad():
        case.guide.encoder.bias[:2] += 1.0
    assert not sbc(case.model, case.guide, data, num_data=200, num_draws=20, seed=0, progress=False).calibrated


def test_active_units_are_given_y(case):
    x = case.draw()
    expected = case.posterior(x, case.features).mean.var(0)
    assert_close(active_units(case.guide, (x, case.y)).variance, expected, rtol=1e-8, atol=1e-8)


def test_the_joint_by_hand():
    model = ConditionalVAE((2, 3), 2, (4,), "relu", num_classes=3).double()
    x, y = torch.rand(7, 2, 3).double().round(), LABELS
    trace = poutine.trace(model).get_trace(x, y)
    z = trace.nodes["z"]["value"]
    p = model.likelihood.decoder(torch.cat([z, nn.functional.one_hot(y, 3)], 1)).sigmoid().reshape(x.shape)
    expected = torch.where(x == 1, p, 1 - p).log().sum((1, 2)) - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    assert_close(trace.log_prob_sum(), expected.sum(), rtol=1e-12, atol=1e-12)


def test_an_image_as_y_and_a_prior_of_the_users():
    model = ConditionalVAE((5,), 2, (4,), y_shape=(1, 3, 2), prior=StudentTPrior(2))
    y = torch.rand(7, 1, 3, 2)
    assert model(torch.zeros(7, 5), y).shape == (7, 2)
    assert model.prior_given(y).batch_shape == ()
    assert model.likelihood.decoder.in_features == 8


def test_a_learned_prior_is_one_of_y():
    model = ConditionalVAE((5,), 2, (4, 3), conditional_prior=True, num_classes=3)
    assert model.prior_network.hidden_dims == (3, 4)
    p = model.prior_given(torch.tensor([[0, 2], [2, 2]]))
    assert (p.batch_shape, p.event_shape) == ((2, 2), (2,))
    assert torch.equal(p.mean[0, 1], p.mean[1, 0])
    assert not torch.equal(p.mean[0, 0], p.mean[1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs num_classes"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"y_shape": (2.0,)}, "y_shape must be a whole number"),
        ({"num_classes": 3, "conditional_prior": True, "prior": StudentTPrior(2)}, "takes the place of a prior"),
        ({"num_classes": 3, "likelihood": BernoulliLikelihood((5,), 5), "decoder": nn.Linear}, "has its decoder"),
    ],
)
def test_arguments_that_do_not_fit_are_told_so(arguments, message):
    with pytest.raises(ValueError, match=f"ConditionalVAE: .*{message}"):
        ConditionalVAE((5,), 2, **arguments)


def test_evaluations_of_x_alone_are_told_what_is_missing(case):
    """There is no log p(x) to be had."""
    x = case.draw()
    for call in (
        lambda: pyro_vae.log_likelihood(case.model, case.guide, x, 3),
        lambda: ais(case.model, x, num_temperatures=3, progress=False),
        lambda: pyro_vae.fit(case.model, case.guide, x, epochs=1, batch_size=2, progress=False),
    ):
        with pytest.raises(ValueError, match="y is missing"):
            call()


def test_a_guide_of_x_alone_is_one_of_the_pair_too():
    model, guide = ConditionalVAE((5,), 2, (4,), num_classes=3), MeanFieldGuide((5,), 2, (4,))
    assert pyro_vae.log_weights(model, guide, (torch.zeros(7, 5), LABELS), 2).isfinite().all()


class Labelled:
    def data(self, part, n, dtype=torch.float32):
        return super().data(part, n, dtype), torch.randint(3, (n,))


class TestContract(Labelled, ModelSuite):
    part = "conditional_vae(num_classes=3)"


class TestContractOfALearnedPrior(Labelled, ModelSuite):
    part = "conditional_vae(conditional_prior=True, num_classes=3)"


class TestContractOfVectors(ModelSuite):
    part = "conditional_vae(y_shape=(2, 2))"

    def data(self, part, n, dtype=torch.float32):
        return super().data(part, n, dtype), torch.randn(n, 2, 2, dtype=dtype)
