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
    with pytest.raises(UnitKLError, match=r"p\(z\) is no product over the units of site 'z' \(MultivariateNormal\)"):
        found_by(program(correlated), program(posterior, seen=False), x)
    with pytest.raises(UnitKLError, match=r"q\(z \| x\) is no product over the units of site 'z'"):
        found_by(program(normal), program(correlated, seen=False), x)
