"""Gaussians, whose evidence and divergences are known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_vae.evaluation.reference.bridge import bridge

LOG_EVIDENCE = -1234.5


def log_weights(p, q, num_chains, num_draws, num_samples, repetitions):
    """l at draws of p and of q, where the evidence is e^-1234.5."""

    def at(z):
        return LOG_EVIDENCE + p.log_prob(z) - q.log_prob(z)

    shape = torch.Size([num_chains, num_draws, repetitions])
    return at(p.sample(shape)), at(q.sample((num_samples, repetitions)))


def gaussians(shift, stretch, dim=3):
    eye = torch.eye(dim, dtype=torch.float64)
    return (
        MultivariateNormal(torch.zeros(dim).double(), eye),
        MultivariateNormal(torch.full((dim,), shift).double(), stretch**2 * eye),
    )


@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.3), (-0.2, 0.8)])
def test_standard_errors_cover_the_closed_forms(shift, stretch):
    """2-s.e. intervals in 90 to 99 % of 400 repetitions, and means of them within 4 standard errors."""
    p, q = gaussians(shift, stretch)
    found = bridge(*log_weights(p, q, 4, 100, 600, 400), torch.full((400,), 400.0))
    for value, error, truth in (
        (found.log_evidence, found.log_evidence_errors, LOG_EVIDENCE),
        (found.kl, found.kl_errors, kl_divergence(q, p)),
        (found.forward_kl, found.forward_kl_errors, kl_divergence(p, q)),
    ):
        assert 0.90 < ((value - truth).abs() < 2 * error).double().mean() < 0.99
        assert (value.mean() - truth).abs() < 4 * value.std() / 20


def test_equal_laws_give_exact_numbers():
    p, _ = gaussians(0.0, 1.0)
    found = bridge(*log_weights(p, p, 2, 50, 100, 3), torch.full((3,), 80.0))
    torch.testing.assert_close(found.log_evidence, torch.full((3,), LOG_EVIDENCE).double(), rtol=1e-12, atol=0)
    for value in (found.kl, found.kl_errors, found.forward_kl, found.log_evidence_errors):
        assert value.abs().max() < 1e-9
    torch.testing.assert_close(found.overlap, torch.full((3,), 80.0).double())


def test_laws_that_are_apart_have_no_estimate():
    """A thousand draws of Gaussians 30 standard deviations apart have nothing in common; the datum beside is fine."""
    near, far = gaussians(0.1, 1.0), gaussians(30.0, 1.0)
    parts = [log_weights(p, q, 2, 500, 1000, 1) for p, q in (near, far)]
    found = bridge(*(torch.cat([one, other], -1) for one, other in zip(*parts, strict=True)), torch.full((2,), 1000.0))
    for value in (found.log_evidence, found.kl, found.forward_kl, found.kl_errors):
        assert value.isfinite().tolist() == [True, False]
    assert found.overlap[0] > 900
    assert found.overlap[1] < 20


def test_a_weight_that_is_not_finite_spoils_its_own_datum_alone():
    p, q = gaussians(0.1, 1.1)
    at_posterior, at_guide = log_weights(p, q, 2, 100, 200, 3)
    at_guide[5, 0], at_posterior[1, 7, 2] = math.nan, -math.inf
    found = bridge(at_posterior, at_guide, torch.full((3,), 200.0))
    assert found.kl.isfinite().tolist() == [False, True, False]


def test_the_optimal_bridge_beats_importance_sampling():
    """q three times as narrow in one dim has weights of infinite variance; the bridge's error is finite and right."""
    p, q = Normal(torch.zeros(()).double(), 1.0), Normal(torch.zeros(()).double(), 1 / 3)
    found = bridge(*log_weights(p, q, 4, 250, 1000, 200), torch.full((200,), 1000.0))
    off = found.log_evidence - LOG_EVIDENCE
    assert 0.90 < (off.abs() < 2 * found.log_evidence_errors).double().mean() < 0.99
    assert off.std() < 0.06
