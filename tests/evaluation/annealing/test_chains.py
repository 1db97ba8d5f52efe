"""The bookkeeping of weights against exact kernels, both ways; the pilot; what is refused."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.evaluation.annealing import chains as annealing_module
from pyro_vae.evaluation.annealing.chains import Annealing, shortened
from pyro_vae.evaluation.annealing.hmc import Chains, Move, Terms
from pyro_vae.evaluation.annealing.temperatures import temperatures

SETTINGS = {
    "num_temperatures": 5, "num_chains": 4, "num_leapfrog": 3, "schedule": "sigmoid", "step_size": 0.2,
    "step_size_bounds": (1e-4, 0.5), "burn_in": 10,
}  # fmt: skip


def make(**options):
    return Annealing(**{**SETTINGS, **options})


def at(u):
    """From N(0, 1) to a Gaussian of mean 1 and variance 1/3: normalized, but for a factor of e^2."""
    base = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(-1)
    off = u - 1
    target = 2 + (-1.5 * off.square() + 0.5 * math.log(3 / (2 * math.pi))).sum(-1)
    return [base, target - base, -u, -3 * off + u]


def no_tick():
    pass


def test_the_weight_is_the_sum_over_the_temperatures_of_both_ways(monkeypatch):
    """With a transition that adds 1 to u, every increment is known."""
    seen = []

    def shift(at, chains, size, temperature, num_steps):
        seen.append((size.flatten()[0].item(), temperature))
        u = chains.u + 1
        return Move(Chains(u, Terms(*at(u))), torch.full(u.shape[:2], 0.25).double(), torch.ones(u.shape[:2]) > 0)

    monkeypatch.setattr(annealing_module, "transition", shift)
    monkeypatch.setattr(annealing_module, "shortened", lambda sizes: sizes)
    ladder = temperatures("sigmoid", 5)
    steps = ladder.diff()
    sizes = torch.arange(1.0, 11.0).double()[:, None, None].expand(10, 4, 3)
    u = torch.randn(4, 3, 2).double()
    ticks = []
    ratios = torch.stack([at(u + k)[1] for k in range(5)])
    found = make().run(at, u, sizes, lambda: ticks.append(1))
    assert_close(found.log_weight, (steps[:, None, None] * ratios).sum(0))
    # The step sizes of the pilot's ten at the same part of the five.
    assert seen == [(size, pytest.approx(ladder[t].item())) for size, t in ((2, 1), (4, 2), (6, 3), (8, 4))]
    assert (found.acceptance == 0.25).all()
    assert (found.diverged == 1).all()
    assert len(ticks) == 4
    seen.clear()
    found = make().run(at, u, sizes, no_tick, reverse=True)
    assert_close(found.log_weight, (steps.flip(0)[:, None, None] * ratios).sum(0))
    assert seen == [(size, pytest.approx(ladder[t].item())) for size, t in ((8, 4), (6, 3), (4, 2), (2, 1))]


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_the_mean_weight_is_the_normalizer_and_the_mean_inverse_of_the_reverse_its_inverse(schedule, count):
    """Few temperatures, large steps with rejections: 40 000 chains, 4 standard errors."""
    settings = make(num_temperatures=count, schedule=schedule, step_size_bounds=(1e-4, 1.5), step_size=0.9)
    sizes = torch.full((1, 400, 100), 1.5).double()
    found = settings.run(at, torch.randn(400, 100, 1).double(), sizes, no_tick)
    weight = (found.log_weight - 2).exp().flatten()
    assert abs(weight.mean() - 1) < 4 * weight.std() / 200
    if count > 1:
        assert 0.3 < found.acceptance.mean() < 0.97
    exact = 1 + torch.randn(400, 100, 1).double() / math.sqrt(3)
    reverse = settings.run(at, exact, sizes, no_tick, reverse=True)
    inverse = (2 - reverse.log_weight).exp().flatten()
    # Without annealing, 1/w has no variance: the prior is wider than the posterior by more than a factor of two.
    if count > 2:
        assert abs(inverse.mean() - 1) < 4 * inverse.std() / 200


def test_step_sizes_that_follow_the_chains_would_bias_the_weights():
    """What the pilot is for, and that the test above would see it."""
    settings = make(num_temperatures=10, step_size_bounds=(1e-4, 1.5))
    generator = torch.manual_seed(1)
    u = torch.randn(400, 100, 1, generator=generator).double()
    # Steps that depend on where a chain started: nearly none for those far from the target.
    sizes = torch.where(u[..., 0] > 0.5, 1e-4, 1.5).unsqueeze(0)
    weight = (settings.run(at, u, sizes, no_tick).log_weight - 2).exp().flatten()
    assert abs(weight.mean() - 1) > 8 * weight.std() / 200


def test_one_temperature_is_importance_sampling_without_transitions():
    settings = make(num_temperatures=1)
    assert settings.num_transitions == settings.num_pilot_transitions == 0
    u = torch.randn(4, 3, 2).double()
    found = settings.run(at, u, settings.step_sizes(at, u, no_tick), no_tick)
    assert_close(found.log_weight, at(u)[1])
    assert found.acceptance.isnan().all()
    assert (found.diverged == 0).all()


def test_the_pilot_comes_to_the_step_sizes_of_each_temperature():
    """A path that narrows by a hundred: at its end, steps are small."""
    scale = 0.01

    def narrowing(u):
        base, target = -0.5 * u.square().sum(-1), -0.5 * (u / scale).square().sum(-1)
        return [base, target - base, -u, -u / scale**2 + u]

    settings = make(burn_in=300, schedule="linear", num_leapfrog=5)
    ticks = []
    sizes = settings.step_sizes(narrowing, torch.randn(20, 5, 10).double(), lambda: ticks.append(1))
    assert sizes.shape == (300, 20, 5)
    assert len(ticks) == 300
    assert sizes.amin() >= 1e-4
    # Optimal steps go as the target's width, 1 / sqrt(b (1/scale^2 - 1) + 1).
    widths = [(100 * index / 300 * 100 + 1) ** -0.5 for index in (150, 300)]
    for index, width in zip((150, 300), widths, strict=True):
        assert 0.5 < (sizes[index - 20 : index].mean() / width) < 3
    assert sizes[-1].std() > 0


def test_every_chain_takes_a_share_of_its_step_size_anew():
    sizes = torch.full((200, 100), 0.5).double()
    found = torch.stack([shortened(sizes) for _ in range(2)])
    assert len(found.unique()) == found.numel()
    assert found.min() >= 0.2
    assert found.max() <= 0.5
    # The variance of a uniform number is the square of its range over 12.
    assert abs(found.mean() - 0.35) < 4 * (0.3**2 / 12 / found.numel()) ** 0.5


def test_the_lengths_of_trajectories_differ_so_that_none_is_a_period(monkeypatch):
    """Half a period of N(0, 1) in all dims leaves every square as it is; chains then hardly forget."""

    def shallow(u):
        base, ratio = -0.5 * u.square().sum(-1), -0.05 * u.square().sum(-1)
        return [base, ratio, -u, -0.1 * u]

    settings = make(num_temperatures=30, num_leapfrog=10)
    sizes, u = torch.full((1, 100, 100), torch.pi / 10).double(), torch.randn(100, 100, 3).double()
    varied = settings.run(shallow, u, sizes, no_tick).log_weight.var()
    monkeypatch.setattr(annealing_module, "shortened", lambda sizes: sizes)
    assert settings.run(shallow, u, sizes, no_tick).log_weight.var() > 4 * varied


def test_without_burn_in_there_is_one_step_size():
    settings = make(burn_in=0, step_size=0.3)
    sizes = settings.step_sizes(at, torch.zeros(4, 3, 2).double(), no_tick)
    assert_close(sizes, torch.full((1, 4, 3), 0.3, dtype=torch.float64), rtol=0, atol=0)
    assert settings.num_pilot_transitions == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains must be at least"),
        ({"num_leapfrog": 0}, "num_leapfrog must be at least"),
        ({"burn_in": -1}, "burn_in must be at least"),
        ({"num_temperatures": 0}, "num_temperatures must be at"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"step_size": 0.7}, r"step_size must lie .*got 0\.7"),
        ({"step_size_bounds": (0.0, 0.5)}, r"step_size must lie .*\(0\.0, 0\."),
        ({"step_size": math.nan}, "step_size must be a finite"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    make().check("ais")
    with pytest.raises(ValueError, match=rf"^ais: {message}"):
        make(**options).check("ais")
