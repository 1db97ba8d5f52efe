"""The density that chains move on, its gradient, and the chains' bookkeeping."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.evaluation.reference import nuts
from pyro_vae.evaluation.reference.nuts import DatumDensity, log_joint_at, run_chain, starts_of
from pyro_vae.graphs.capture import NotTraceable
from pyro_vae.programs.joint import Joint


def density_of(model, x):
    rows = Rows("test", x, model)
    joint = Joint("test", model, rows.take(slice(None)))
    return joint, DatumDensity("test", joint, rows, joint.draw(rows.take(slice(None)), 2))


def refuse(*args, **options):
    raise NotTraceable("a test")


@pytest.mark.parametrize("graph", [True, False])
def test_the_potential_of_each_datum_is_the_closed_one(linear_gaussian, caplog, monkeypatch, graph):
    if not graph:
        monkeypatch.setattr(nuts, "capture", refuse)
    x = linear_gaussian.data(4)
    _, density = density_of(linear_gaussian.model, x)
    assert ("test: runs without a graph, which is slower: a test" in caplog.text) != graph
    for i in range(4):
        u = torch.randn(3).double().requires_grad_()
        expected = -linear_gaussian.evidence(x)[i] - linear_gaussian.model.posterior(x[i : i + 1]).log_prob(u)[0]
        found = density.of(i, torch.ones(3, dtype=torch.bool), torch.zeros(3).double())({"u": u})
        assert_close(found, expected)
        for ours, theirs in zip(torch.autograd.grad(3 * found, u), torch.autograd.grad(3 * expected, u), strict=True):
            assert_close(ours, theirs)


def test_without_a_graph_the_chain_is_the_same(linear_gaussian, monkeypatch):
    """Up to rounding, which twenty steps do not blow up."""
    x = linear_gaussian.data(1)
    chains = []
    for graph in (True, False):
        if not graph:
            monkeypatch.setattr(nuts, "capture", refuse)
        _, density = density_of(linear_gaussian.model, x)
        torch.manual_seed(1)
        start = torch.zeros(3).double()
        potential = density.of(0, torch.ones(3, dtype=torch.bool), start)
        chains.append(run_chain(potential, start, 10, 10, lambda: None)[0])
    assert_close(*chains, rtol=1e-4, atol=1e-4)


def test_a_chain_counts_its_steps_and_its_divergences():
    """A potential with a wall of a million, that half of all trajectories run into."""

    def potential(z):
        u = z["u"]
        return (u.square() / 2 + 1e6 * (u > 0.3)).sum()

    steps = []
    draws, divergences = run_chain(potential, torch.zeros(1).double(), 60, 20, partial(steps.append, None))
    assert draws.shape == (60, 1)
    assert len(steps) == 80
    assert 1 < divergences <= 60
    assert (draws <= 0.3).all()


def test_starts_are_where_the_density_is_finite():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            # Of a root of a negative number there is none.
            pyro.sample("x", dist.Normal((z - 0.5 * x).sqrt(), 1.0).to_event(1), obs=x)

    x = torch.tensor([[0.0], [1.0], [100.0]]).double()
    starts = starts_of(Joint("test", model, x.clamp(max=-9)), (x,), 8)
    assert starts.shape == (8, 3, 1)
    assert (starts[:, 0] >= 0).all()
    assert (starts[:, 1] >= 0.5).all()
    assert starts[:, 2].isnan().all()


def test_many_draws_are_scored_some_at_a_time(linear_gaussian):
    x, rows = linear_gaussian.data(2), []
    linear_gaussian.model.register_forward_hook(lambda _, __, z: rows.append(z[..., 0].numel()))
    joint = Joint("test", linear_gaussian.model, x)
    u = torch.randn(75, 2, 3).double()
    expected = linear_gaussian.evidence(x) + linear_gaussian.model.posterior(x).log_prob(u)
    rows.clear()
    with run_sizes(rows=64):
        assert_close(log_joint_at(joint, (x,), u), expected)
    assert rows == [64, 64, 22]


def fixed_plate(x):
    with pyro.plate("data", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def over_the_batch(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z - x.mean(0), 1.0).to_event(1), obs=x)


def test_a_datum_must_have_a_density_of_its_own():
    x = torch.randn(3, 1).double()
    with pytest.raises(ValueError, match=r"take one datum .* 3 densities"):
        density_of(fixed_plate, x)
    with pytest.raises(ValueError, match="test: the density of a datum"):
        density_of(over_the_batch, x)
