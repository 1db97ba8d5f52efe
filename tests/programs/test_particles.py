"""The pieces of a log-weight by hand, and where the scales of sites go in a bound that is not linear in them."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch.testing import assert_close

from pyro_vae.programs.pair import Pair
from pyro_vae.programs.particles import LogTerms, Particles

X = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.5, 0.0], [0.0, 3.0, 1.0], [2.0, -2.0, 1.5]], dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)
PIXELS = 2


def model(x):
    """Two of four data, and two of three pixels of each."""
    with pyro.plate("data", len(x), subsample_size=2, dim=-2) as rows:
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        with pyro.plate("pixels", x.shape[1], subsample_size=PIXELS, dim=-1) as columns:
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[rows][:, columns])


def guide(x):
    with pyro.plate("data", len(x), subsample_size=2, dim=-2) as rows:
        pyro.sample("z", dist.Normal(x[rows].mean(1, keepdim=True), 0.75))


def run(wrap=lambda program: program, num_samples=3) -> Particles:
    (particles,) = Pair(wrap(model), wrap(guide), X, plate="data").run(X, num_samples)
    return particles


def by_hand(particles, inner, beta):
    trace = particles.model_trace
    z, x = trace.nodes["z"]["value"], trace.nodes["x"]["value"]
    q = particles.guide_trace.nodes["z"]["fn"]
    return LogTerms(
        inner * dist.Normal(z, 0.5).log_prob(x).sum(-1),
        beta * dist.Normal(ZERO, 1.0).log_prob(z)[..., 0],
        beta * q.log_prob(z)[..., 0],
    )


def assert_equal(found, exact):
    for name in ("reconstruction", "log_prior", "log_guide", "log_joint", "log_weight"):
        assert_close(getattr(found, name), getattr(exact, name), rtol=1e-12, atol=1e-12)


def test_terms_know_no_scale():
    particles = run(lambda program: poutine.scale(program, 0.1))
    assert particles.shape == (3, 2)
    assert_equal(particles.terms(), by_hand(particles, 1.0, 1.0))


@pytest.mark.parametrize("scale", [1.0, 0.1, torch.tensor(0.1, dtype=torch.float64)])
def test_the_batch_and_a_common_scale_go_outside_and_an_inner_subsample_inside(scale):
    particles = run(lambda program: poutine.scale(program, scale))
    terms, weight = particles.scaled_terms()
    assert_equal(terms, by_hand(particles, 3 / PIXELS, 1.0))
    assert float(weight) == pytest.approx(2 * float(scale), rel=1e-12)


def test_a_scale_on_latent_sites_alone_goes_inside():
    class Tempered(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] == "z":
                msg["scale"] = msg["scale"] * 0.25

    particles = run(Tempered())
    terms, weight = particles.scaled_terms()
    assert_equal(terms, by_hand(particles, 3 / PIXELS, 0.25))
    assert weight == 2.0


def test_terms_of_several_runs_lie_below_one_another():
    runs = [run(num_samples=k).terms() for k in (1, 3)]
    together = LogTerms.together(runs)
    assert_equal(together, LogTerms(*(torch.cat([getattr(r, f) for r in runs]) for f in vars(runs[0]))))
    assert together.log_weight.shape == (4, 2)
