"""Pyro's TraceMeanField_ELBO, which says where it samples."""

import logging

import pyro
import pytest
import torch
from gaussian_toy import Toy
from pyro import distributions as dist
from pyro.infer import TraceMeanField_ELBO
from torch.testing import assert_close

from pyro_vae.objectives import AnalyticKL


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
    assert caplog.messages == [
        "AnalyticKL: site 'z' has no closed KL of MixtureOfDiagNormals to Independent: it is sampled"
    ]


def test_or_refused():
    toy = Toy(6)
    message = r"AnalyticKL: site 'z' has no closed KL of MixtureOfDiagNormals .* Use Trace_ELBO, or sample_rest=True"
    with pytest.raises(ValueError, match=message):
        AnalyticKL(sample_rest=False).loss(toy.model, mixture_guide, toy.x)


def test_a_tensor_loss_with_several_particles():
    toy, objective = Toy(6), AnalyticKL(num_particles=3)
    torch.manual_seed(0)
    ours = objective.tensor_loss(toy.model, toy.guide, toy.x)
    torch.manual_seed(0)
    assert_close(
        ours.item(), TraceMeanField_ELBO(num_particles=3).loss(toy.model, toy.guide, toy.x), rtol=1e-12, atol=0
    )
