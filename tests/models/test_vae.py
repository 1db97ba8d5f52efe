"""The VAE: its joint density by hand, its parts swapped, its evidence by quadrature."""

import math

import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_vae import log_likelihood
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import StandardNormalPrior
from pyro_vae.nn import MLP
from pyro_vae.testing import ModelSuite


def test_the_joint_by_hand():
    model = VAE((2, 3), latent_dim=2, hidden_dims=(4,), activation="relu").double()
    x = torch.rand(5, 2, 3, dtype=torch.float64).round()
    trace = poutine.trace(model).get_trace(x)
    z = trace.nodes["z"]["value"]
    p = model.likelihood.decoder(z).sigmoid().reshape(x.shape)
    expected = torch.where(x == 1, p, 1 - p).log().sum((1, 2))
    expected = expected - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    assert_close(trace.log_prob_sum(), expected.sum(), rtol=1e-12, atol=1e-12)


def test_parts_are_taken_as_given():
    class WidePrior(nn.Module):
        def forward(self):
            return dist.Normal(torch.zeros(3), 5.0).to_event(1)

    likelihood = BernoulliLikelihood((4,), 3, (2,))
    model = VAE((4,), 3, prior=WidePrior(), likelihood=likelihood)
    assert model.likelihood is likelihood
    # sd of 6000 draws: s.e. 5 / sqrt(12000) = 0.046; four of them.
    assert model(torch.zeros(2000, 4)).std().item() == pytest.approx(5.0, abs=0.19)
    default = VAE((4,), 3, (2,), "relu")
    assert isinstance(default.prior, StandardNormalPrior)
    assert (default.likelihood.hidden_dims, default.likelihood.activation) == ((2,), "relu")


def test_a_decoder_goes_to_the_default_likelihood():
    given = nn.Linear(3, 4)
    assert VAE((4,), 3, decoder=given).likelihood.decoder is given
    made = VAE((4,), 3, (2,), "relu", decoder=MLP).likelihood.decoder
    assert (made.in_features, made.hidden_dims, made.out_features, made.activation) == (3, (2,), 4, "relu")
    with pytest.raises(ValueError, match=r"likelihood .* has its decoder"):
        VAE((4,), 3, likelihood=BernoulliLikelihood((4,), 3), decoder=given)


def test_the_evidence_of_a_one_dimensional_vae_by_quadrature():
    """p(x) is an integral over a line; 2000 weights agree within 4 of their standard errors, image by image."""
    model, guide = VAE((6,), 1, (5,)).double(), MeanFieldGuide((6,), 1, (5,)).double()
    nn.init.normal_(model.likelihood.decoder.output.weight, std=2.0)
    x = torch.rand(30, 6, dtype=torch.float64).round()
    line = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_joint = model.likelihood(line).log_prob(x[:, None]) + model.prior().log_prob(line)
    evidence = log_joint.logsumexp(1) + math.log(24 / 4000)
    found = log_likelihood(model, guide, x, 2000, seed=0)
    assert ((found.per_datum - evidence).abs() < 4 * found.standard_errors).all()


class TestContract(ModelSuite):
    part = "vae"
