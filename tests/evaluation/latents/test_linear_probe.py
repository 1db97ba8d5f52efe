"""The probe against Bayes' rule, its own stationarity, and another solver."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.testing import assert_close

from pyro_vae.evaluation import linear_probe
from pyro_vae.evaluation.latents.linear_probe import _fit
from pyro_vae.guides import MeanFieldGuide


def identity_guide(dim):
    """E_q[z | x] = x."""
    encoder = nn.Linear(dim, 2 * dim).double()
    with torch.no_grad():
        encoder.weight.zero_()[:dim] = torch.eye(dim)
        encoder.bias.zero_()
    return MeanFieldGuide((dim,), dim, encoder=encoder)


def two_gaussians(n, shift=1.0):
    """Classes 3 and 8 at -+shift along the first of two units: the best accuracy is Phi(shift)."""
    labels = torch.randint(2, (n,))
    x = torch.randn(n, 2, dtype=torch.float64)
    x[:, 0] += shift * (2 * labels - 1)
    return x, torch.tensor([3, 8])[labels]


def test_two_gaussians_are_told_apart_as_well_as_can_be():
    """Bayes' accuracy is Phi(1) = 0.841; 4000 training data bring the probe within its square error of that."""
    found = linear_probe(identity_guide(2), *two_gaussians(4000), *two_gaussians(4000))
    best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    accuracy, error = found.accuracy.mean, found.accuracy.data_standard_error
    assert abs(accuracy - best) < 4 * error
    # The variance over n labels is taken about their own mean, over n - 1.
    assert error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 3999))
    assert found.accuracy.standard_error == 0
    assert abs(found.majority - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert found.converged
    assert (found.num_classes, found.num_train, found.latent_dim) == (2, 4000, 2)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_optimum_has_no_gradient_and_is_that_of_another_solver(num_classes):
    from scipy.optimize import minimize

    features, targets = torch.randn(60, 3, dtype=torch.float64), torch.randint(num_classes, (60,))
    weight, converged = _fit(features, targets, num_classes, 0.01)
    assert converged
    inputs = torch.cat([features, torch.ones(60, 1).double()], 1)
    error = (inputs @ weight).softmax(-1) - nn.functional.one_hot(targets, num_classes)
    gradient = inputs.T @ error / 60 + 0.01 * torch.cat([weight[:-1], torch.zeros(1, num_classes).double()])
    assert gradient.abs().max() <= 1e-7

    def loss(flat):
        w = torch.from_numpy(flat).reshape(4, num_classes)
        return (nn.functional.cross_entropy(inputs @ w, targets) + 0.005 * w[:-1].square().sum()).item()

    other = minimize(loss, weight.flatten().numpy() * 0, method="Powell", options={"xtol": 1e-8, "maxiter": 10_000})
    assert loss(weight.flatten().numpy()) <= other.fun + 1e-9


def test_units_of_any_scale_and_order_of_data_change_nothing():
    x, labels = two_gaussians(300)
    test, truth = two_gaussians(300)
    first = linear_probe(identity_guide(2), x, labels, test, truth)
    stretch = torch.tensor([1e4, 1e-3]).double()
    order = torch.randperm(300)
    other = linear_probe(identity_guide(2), x[order] * stretch + 7, labels[order], test * stretch + 7, truth)
    assert torch.equal(first.accuracy.per_datum, other.accuracy.per_datum)


def test_a_collapsed_latent_has_the_majority_classs_accuracy():
    """Means that are equal but for rounding are no features, however they lie."""
    labels = torch.tensor([0] * 70 + [1] * 30)
    x = 3 + 1e-13 * torch.where(labels == 1, 1.0, -1.0).double().unsqueeze(-1)
    found = linear_probe(identity_guide(1), x, labels, x, labels)
    assert found.accuracy.mean == found.majority == 0.7
    assert str(found) == (
        "linear probe 70.00 % (data s.e. 4.6; 100 test labels of 2 classes, 100 to learn from, 1 latent unit; the "
        "majority class 70.00 %)"
    )


def test_a_guide_without_a_mean_is_sampled_under_the_seed():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(x, 0.5).to_event(1))

    data = (*two_gaussians(200), *two_gaussians(200))
    first, again = (linear_probe(guide, *data, site="w", num_samples=5, seed=0) for _ in range(2))
    assert torch.equal(first.accuracy.per_datum, again.accuracy.per_datum)
    assert first.accuracy.mean > 0.7


def test_a_class_that_was_not_in_training_is_missed():
    x, labels = two_gaussians(100, shift=5.0)
    truth = labels.clone()
    truth[:10] = 99
    found = linear_probe(identity_guide(2), x, labels, x, truth)
    assert not found.accuracy.per_datum[:10].any()
    assert found.accuracy.per_datum[10:].all()
    assert_close(found.summary()["accuracy"]["mean"], 0.9)


def test_bad_input():
    guide, (x, labels) = identity_guide(2), two_gaussians(20)
    with pytest.raises(ValueError, match=r"train_labels .* shape \(19,\)"):
        linear_probe(guide, x, labels[1:], x, labels)
    with pytest.raises(ValueError, match=r"test_labels .*torch\.float32"):
        linear_probe(guide, x, labels, x, labels.float())
    with pytest.raises(ValueError, match=r"2 classes; got \[3\]"):
        linear_probe(guide, x, torch.full((20,), 3), x, labels)
    with pytest.raises(ValueError, match="l2 must be positive"):
        linear_probe(guide, x, labels, x, labels, l2=0)
    with pytest.raises(ValueError, match=r"linear_probe: x: there are none"):
        linear_probe(guide, x, labels, x[:0], labels[:0])


def test_means_over_samples_have_an_unknown_monte_carlo_error_which_is_said():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            noise = pyro.sample("v", dist.Normal(x, 0.5).to_event(1))
            pyro.sample("w", dist.Normal(noise, 0.5).to_event(1))

    found = linear_probe(guide, *two_gaussians(50), *two_gaussians(50), site="w", num_samples=5, seed=0)
    assert str(found).startswith(
        f"linear probe {100 * found.accuracy.mean:.2f} % (Monte Carlo s.e. unknown, data s.e. "
    )
    assert math.isnan(found.summary()["accuracy"]["standard_error"])
