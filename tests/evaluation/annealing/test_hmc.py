"""Trajectories: reversible, of second order. Transitions: they leave the right law alone, and reject what diverges."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation.annealing.hmc import Chains, Terms, adapted, leapfrog, start, transition

PRECISION = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
CENTER = torch.tensor([0.5, -1.0], dtype=torch.float64)


def gaussians(u):
    """From N(0, I) to a correlated Gaussian, not normalized; slopes by hand."""
    base, off = -0.5 * u.square().sum(-1), u - CENTER
    target = -0.5 * ((off @ PRECISION) * off).sum(-1)
    return [base, target - base, -u, -off @ PRECISION + u]


def quartic(u):
    """exp(-u^4), which has no linear dynamics."""
    return [torch.zeros_like(u[..., 0]), -u.pow(4).sum(-1), torch.zeros_like(u), -4 * u.pow(3)]


def tempered(temperature):
    """Mean and covariance at a temperature."""
    precision = (1 - temperature) * torch.eye(2).double() + temperature * PRECISION
    return torch.linalg.solve(precision, temperature * PRECISION @ CENTER), precision.inverse()


@pytest.mark.parametrize("at", [gaussians, quartic])
def test_a_trajectory_is_reversed_by_its_momentum(at):
    u, momentum = torch.randn(2, 4, 3, 2).double()
    size = torch.rand(4, 3).double() * 0.1 + 0.05
    end, last = leapfrog(at, start(at, u), momentum, size, 0.7, 9)
    assert (end.u - u).abs().amin() > 1e-3
    back, first = leapfrog(at, end, -last, size, 0.7, 9)
    assert_close(back.u, u, rtol=1e-11, atol=1e-11)
    assert_close(-first, momentum, rtol=1e-11, atol=1e-11)
    assert_close(back.terms, Terms(*at(u)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("at", [gaussians, quartic])
def test_the_energy_error_falls_with_the_square_of_the_step(at):
    u, momentum = torch.randn(2, 50, 20, 2).double()

    def error(num_steps):
        chains = start(at, u)
        size = torch.full((50, 20), 1.0 / num_steps).double()
        end, last = leapfrog(at, chains, momentum, size, 0.7, num_steps)
        energy = end.terms.log_density(0.7) - 0.5 * last.square().sum(-1)
        return (energy - chains.terms.log_density(0.7) + 0.5 * momentum.square().sum(-1)).square().mean().sqrt()

    # Four to leading order; the next order is 1 / 100^2 of it.
    assert error(100) / error(200) == pytest.approx(4, rel=0.01)


def test_one_evaluation_a_step_and_none_for_another_temperature():
    calls = []

    def counted(u):
        calls.append(u)
        return gaussians(u)

    chains = start(counted, torch.randn(4, 3, 2).double())
    size = torch.full((4, 3), 0.1).double()
    for temperature in (0.2, 0.6):
        chains = transition(counted, chains, size, temperature, 7).chains
    assert len(calls) == 1 + 2 * 7
    assert_close(chains.terms, Terms(*gaussians(chains.u)), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_tempered_density_is_left_as_it_is(temperature):
    """Step sizes so large that a fifth to a half is rejected, other ones for each chain, and 20 000 exact draws."""
    mean, covariance = tempered(temperature)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    chains = start(gaussians, law.sample((200, 100)))
    before = chains.u
    size = torch.linspace(1.0, 1.25, 20_000).double().reshape(200, 100)
    moves = []
    for _ in range(5):
        move = transition(gaussians, chains, size, temperature, 3)
        chains = move.chains
        moves.append(move.probability.mean().item())
    assert 0.5 < sum(moves) / 5 < 0.9
    assert ((chains.u - before).abs().amax(-1) > 0).double().mean() > 0.9
    u = chains.u.reshape(-1, 2)
    n = len(u)
    # 4 standard errors of means, and of the entries of a Gaussian's covariance: (c_ij^2 + c_ii c_jj) / n.
    assert ((u.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    spread = covariance.square() + torch.outer(covariance.diagonal(), covariance.diagonal())
    assert ((u.T.cov() - covariance).abs() < 4 * (spread / n).sqrt()).all()


def test_a_density_that_is_no_gaussian_is_left_as_it_is_too():
    """E[u^4] of exp(-u^4) is 1/4, and its variance 1/4: from exact draws, with u^4 of law Gamma(1/4)."""
    draws = torch.distributions.Gamma(torch.tensor(0.25).double(), 1.0).sample((20_000,)).pow(0.25)
    draws = draws * (2 * torch.randint(0, 2, draws.shape) - 1)
    chains = start(quartic, draws.reshape(200, 100, 1))
    size = torch.full((200, 100), 0.45).double()
    for _ in range(5):
        move = transition(quartic, chains, size, 1.0, 3)
        chains = move.chains
    assert 0.5 < move.probability.mean() < 0.95
    assert abs(chains.u.pow(4).mean() - 0.25) < 4 * (0.25 / 20_000) ** 0.5
    assert abs(chains.u.mean()) < 4 * (chains.u.var() / 20_000) ** 0.5


def broken(u):
    """A standard normal that is NaN beyond 1, and infinitely steep beyond -1."""
    terms = gaussians(u)
    terms[0] = terms[0].masked_fill(u[..., 0] > 1, math.nan)
    terms[2] = terms[2].masked_fill((u[..., :1] < -1), math.inf)
    return terms


def test_what_diverges_is_rejected_and_counted_and_the_rest_goes_on():
    u = torch.zeros(3, 200, 2).double()
    chains = start(broken, u)
    size = torch.full((3, 200), 0.4).double()
    # An energy that no trajectory keeps: 10^4 steps of 10^4.
    size[2] = 1e4
    move = transition(broken, chains, size, 0.0, 3)
    assert move.diverged[2].all()
    assert 0 < move.diverged[:2].double().mean() < 0.9
    assert (move.probability[move.diverged] == 0).all()
    assert_close(move.chains.u[move.diverged], u[move.diverged], rtol=0, atol=0)
    moved = ~move.diverged & (move.chains.u[..., 0] != 0)
    assert moved[:2].double().mean() > 0.1
    assert all(part.isfinite().all() for part in move.chains.terms)


def test_no_model_sees_what_is_not_finite():
    def strict(u):
        assert u.isfinite().all()
        return broken(u)

    chains = start(strict, torch.zeros(3, 200, 2).double())
    size = torch.full((3, 200), 0.4).double()
    size[2] = 1e200
    for _ in range(4):
        chains = transition(strict, chains, size, 0.0, 4).chains
    assert (chains.u[2] == 0).all()


def test_a_chain_without_mass_under_it_stays_and_has_not_diverged():
    def emptied(u):
        terms = gaussians(u)
        terms[1] = terms[1].masked_fill(u[..., 0] > 0, -math.inf)
        return terms

    u = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]).double()
    move = transition(emptied, start(emptied, u), torch.full((1, 2), 0.1).double(), 0.5, 3)
    assert_close(move.chains.u[0, 0], u[0, 0], rtol=0, atol=0)
    assert not move.diverged.any()
    assert (move.chains.u[0, 1] != u[0, 1]).all()


def test_step_sizes_come_to_an_acceptance_of_065_each_in_its_own_chain():
    scales = torch.tensor([0.05, 0.3]).double().expand(50, 2).unsqueeze(-1)

    def at(u):
        base = -0.5 * (u / scales).square().sum(-1)
        return [base, torch.zeros_like(base), -u / scales.square(), torch.zeros_like(u)]

    chains = start(at, torch.randn(50, 2, 20).double() * scales)
    size = torch.full((50, 2), 0.01).double()
    probabilities = []
    for index in range(150):
        move = transition(at, chains, size, 1.0, 5)
        chains, size = move.chains, adapted(size, move.probability, (1e-4, 0.5))
        if index >= 50:
            probabilities.append(move.probability)
    found = torch.stack(probabilities).mean((0, 1))
    # By the rule itself, 0.2 x 100 x the mean's distance from 0.65 is what the logarithm moves in all.
    assert ((found - 0.65).abs() < 0.03).all()
    assert (size.std(0) > 0).all()
    assert size[:, 1].mean() / size[:, 0].mean() == pytest.approx(6, rel=0.2)


def test_step_sizes_move_by_the_rule_and_stay_in_bounds():
    size, probability, expected = torch.tensor(
        [[0.1, 0.1, 0.5, 1e-4], [0.65, 1.0, 1.0, 0.0], [0.1, 0.1 * math.exp(0.2 * 0.35), 0.5, 1e-4]],
        dtype=torch.float64,
    )
    found = adapted(size, probability, (1e-4, 0.5))
    assert_close(found, expected, rtol=1e-12, atol=0)


def test_chains_of_float32_stay_float32():
    chains = Chains(torch.randn(4, 3, 2), None)

    def at(u):
        return [term.to(u.dtype) for term in gaussians(u.double())]

    move = transition(at, start(at, chains.u), torch.full((4, 3), 0.1), 0.123456789, 3)
    assert all(part.dtype == torch.float32 for part in (move.chains.u, *move.chains.terms, move.probability))
