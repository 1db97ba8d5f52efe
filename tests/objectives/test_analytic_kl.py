"""Pyro's TraceMeanField_ELBO, which says where it samples."""

import logging

import pyro
import pytest
import torch
from gaussian_toy import Toy, X
from pyro import distributions as dist
from pyro.infer import TraceMeanField_ELBO
from torch.testing import assert_close

from pyro_vae import fit
from pyro_vae.objectives import AnalyticKL, FreeBits
from pyro_vae.testing import ObjectiveSuite


def test_it_is_pyros():
    toy = Toy(6)
    for ours, stock in zip(toy.gradients(AnalyticKL()), toy.gradients(TraceMeanField_ELBO()), strict=True):
        assert torch.equal(ours, stock)


def mixture_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample(
            "z", dist.MixtureOfDiagNormals(torch.zeros(3, 2).double(), torch.ones(3, 2).double(), torch.zeros(3))
        )


def test_a_term_that_is_sampled_is_said_once(caplog):
    toy, objective = Toy(6), AnalyticKL()
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        for _ in range(3):
            objective.loss(toy.model, mixture_guide, toy.x)
            objective.tensor_loss(toy.model, mixture_guide, toy.x)
    assert caplog.messages == ["site 'z' has no closed KL of MixtureOfDiagNormals to Normal: it is sampled"]


def test_fit_says_it_of_pyros_class_too(caplog):
    toy = Toy(6)

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(2).double())

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.StudentT(5.0, torch.zeros(2).double(), self.scale).to_event(1))

    fit(toy.model, Guide(), X.repeat(6, 1), objective=TraceMeanField_ELBO(), epochs=1, batch_size=6)
    assert caplog.messages.count("site 'z' has no closed KL of StudentT to Normal: it is sampled") == 1


@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction")  # Pyro's own word on it
def test_sites_in_another_order_than_the_models_are_refused():
    """q(z2) q(z1 | z2) against p(z1) p(z2 | z1): closed KLs of the sites do not add up to the KL."""

    def model(x):
        with pyro.plate("data", len(x)):
            first = pyro.sample("first", dist.Normal(0.0, 1.0))
            second = pyro.sample("second", dist.Normal(first, 1.0))
            pyro.sample("x", dist.Normal(second, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            second = pyro.sample("second", dist.Normal(2 / 3 * x, (2 / 3) ** 0.5))
            pyro.sample("first", dist.Normal(second / 2, 0.5**0.5))

    for objective in (AnalyticKL(), FreeBits(0.0)):
        with pytest.raises(ValueError, match=f"{type(objective).__name__}: model and guide sample"):
            objective.loss(model, guide, torch.zeros(3))


def test_or_refused():
    toy = Toy(6)
    with pytest.raises(ValueError, match="'z' has no closed KL of Mixture"):
        AnalyticKL(sample_rest=False).loss(toy.model, mixture_guide, toy.x)


def test_a_tensor_loss_with_several_particles():
    toy, objective = Toy(6), AnalyticKL(num_particles=3)
    torch.manual_seed(0)
    ours = objective.tensor_loss(toy.model, toy.guide, toy.x)
    torch.manual_seed(0)
    assert_close(
        ours.item(), TraceMeanField_ELBO(num_particles=3).loss(toy.model, toy.guide, toy.x), rtol=1e-12, atol=0
    )


class TestContract(ObjectiveSuite):
    part = "analytic_kl"
    needs_reparameterized_samples = True
