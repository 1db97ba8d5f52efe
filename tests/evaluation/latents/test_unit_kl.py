"""KLs by unit: closed, sampled, masked, and refused."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_vae.evaluation.latents.unit_kl import UnitKLError, unit_kl
from pyro_vae.programs.pair import Pair


def program(z, seen=True, mask=None):
    """A model or a guide with the law ``z(x)`` at its latent site."""

    def run(x):
        with pyro.plate("data", len(x), dim=-1):
            law = z(x)
            value = pyro.sample("z", law if mask is None else law.mask(mask))
            if seen:
                pyro.sample("x", dist.Normal(value.sum(-1), 1.0), obs=x[:, 0])

    return run


def normal(x):
    return dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)


def student(x):
    return dist.StudentT(5.0, torch.zeros(2).double(), 1.0).to_event(1)


def posterior(x):
    return dist.Normal(x, torch.tensor([0.5, 2.0]).double()).to_event(1)


def found_by(model, guide, x, num_samples=4):
    pair = Pair(model, guide, x)
    (run,) = pair.run(x, num_samples)
    return unit_kl(pair, run, ["z"]), run


def test_a_closed_kl_is_the_same_at_every_draw():
    x = torch.randn(6, 2).double()
    found, _ = found_by(program(normal), program(posterior, seen=False), x)
    expected = kl_divergence(posterior(x).base_dist, normal(x).base_dist)
    assert_close(found, expected.expand(4, -1, -1))


def test_a_kl_without_a_formula_is_the_log_ratio_at_the_draw():
    x = torch.randn(6, 2).double()
    found, run = found_by(program(student), program(posterior, seen=False), x)
    z = run.guide_trace.nodes["z"]["value"]
    assert_close(found, posterior(x).base_dist.log_prob(z) - student(x).base_dist.log_prob(z))
    terms = run.terms()
    assert_close(found.sum(-1), terms.log_guide - terms.log_prior)


def test_units_that_are_masked_count_nothing():
    def masked(law, seen):
        def run(x):
            with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=x[:, 0] > 0):
                value = pyro.sample("z", law(x))
                if seen:
                    pyro.sample("x", dist.Normal(value.sum(-1), 1.0), obs=x[:, 0])

        return run

    x = torch.tensor([[1.0, 0.5], [-1.0, 0.5]]).double()
    found, _ = found_by(masked(normal, True), masked(posterior, False), x)
    assert (found[:, 1] == 0).all()
    assert (found[:, 0] > 0).all()


def test_what_is_no_product_is_refused():
    def correlated(x):
        factor = torch.tensor([[1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
        return dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=factor).expand([len(x)])

    x = torch.randn(6, 2).double()
    with pytest.raises(UnitKLError, match=r"p\(z\) is no product .*'z'"):
        found_by(program(correlated), program(posterior, seen=False), x)
    with pytest.raises(UnitKLError, match=r"q\(z \| x\) is no product .*'z'"):
        found_by(program(normal), program(correlated, seen=False), x)


def layers(noise=0.6, slope=0.8):
    """p(top) p(bottom | top) p(x | bottom), one unit each, linear and Gaussian."""

    def run(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            bottom = pyro.sample("bottom", dist.Normal(slope * top, noise).to_event(1))
            pyro.sample("x", dist.Normal(bottom, 1.0).to_event(1), obs=x)

    return run


def upwards(gain=0.7, scale=0.5, back=0.4, rest=0.9):
    """q(bottom | x) q(top | bottom)."""

    def run(x):
        with pyro.plate("data", len(x), dim=-1):
            bottom = pyro.sample("bottom", dist.Normal(gain * x, scale).to_event(1))
            pyro.sample("top", dist.Normal(back * bottom, rest).to_event(1))

    return run


def test_parts_of_layers_in_two_orders_are_those_of_the_closed_form():
    noise, slope, gain, scale, back, rest = 0.6, 0.8, 0.7, 0.5, 0.4, 0.9
    x = torch.tensor([[1.5], [-0.5]]).double()
    pair = Pair(layers(noise, slope), upwards(gain, scale, back, rest), x)
    assert pair.follows_later == {"bottom"}
    (run,) = pair.run(x, 20_000)
    parts = unit_kl(pair, run, ["bottom", "top"])
    terms = run.terms()
    # The part of the top is closed given the bottom; its mean is over the bottom alone.
    loc = gain * x[:, 0]
    square = (back * loc) ** 2 + (back * scale) ** 2
    of_top = 0.5 * (rest**2 + square - 1) - torch.tensor(rest).double().log()
    # bottom - slope * top is normal under q.
    residual = ((1 - slope * back) * loc) ** 2 + ((1 - slope * back) * scale) ** 2 + (slope * rest) ** 2
    log_q = -0.5 - torch.tensor(scale).double().log()
    log_p = -0.5 * residual / noise**2 - torch.tensor(noise).double().log()
    expected = torch.stack([log_q - log_p, of_top], -1)
    errors = parts.std(0) / len(parts) ** 0.5
    assert ((parts.mean(0) - expected).abs() < 4 * errors).all()
    # The sum differs from the log-ratio by the noise of the top alone, which the closed part has not.
    whole = terms.log_guide - terms.log_prior
    difference = parts.sum(-1) - whole
    assert (difference.mean(0).abs() < 4 * difference.std(0) / len(parts) ** 0.5).all()
    assert_close(parts[..., 0], parts.sum(-1) - parts[..., 1])


def test_independent_sites_in_two_orders_keep_their_closed_kl():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            one = pyro.sample("one", dist.Normal(torch.zeros(()).double(), 1.0))
            two = pyro.sample("two", dist.Normal(torch.zeros(()).double(), 2.0))
            pyro.sample("x", dist.Normal(one + two, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("two", dist.Normal(x[:, 0], 0.5))
            pyro.sample("one", dist.Normal(x[:, 1], 0.25))

    x = torch.randn(6, 2).double()
    pair = Pair(model, guide, x)
    assert pair.follows_later == set()
    (run,) = pair.run(x, 3)
    expected = [kl_divergence(dist.Normal(x[:, 0], 0.5), dist.Normal(torch.zeros(()).double(), 2.0))]
    expected.append(kl_divergence(dist.Normal(x[:, 1], 0.25), dist.Normal(torch.zeros(()).double(), 1.0)))
    assert_close(unit_kl(pair, run, ["two", "one"]), torch.stack(expected, -1).expand(3, -1, -1))
