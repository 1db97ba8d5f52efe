"""Which family a guide is of, for programs of many kinds; and what a wrong one would print for a gap."""

import math

import pyro
import pytest
import torch
from held_parts import data_for, model_for
from pyro import distributions as dist
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform

from pyro_vae.evaluation import inference_gaps
from pyro_vae.evaluation.gaps.guide_family import family_of
from pyro_vae.evaluation.over_data.frozen_pair import FrozenPair
from pyro_vae.models import LinearGaussian
from pyro_vae.parts import make_pair, part_names


def two_reals(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("x", dist.Normal(a + b.unsqueeze(-1), 1.0).to_event(1), obs=x)


def positive(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Gamma(x.new_tensor([2.0, 3.0]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def between(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Uniform(x.new_zeros(2), 3.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_of(law):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", law(x))

    return guide


def own_family(model, guide, x):
    return family_of(guide, *FrozenPair("test", model, guide, x).two_runs())


def spread(x):
    return 0.3 + x.abs()


def full(x):
    return dist.MultivariateNormal(x, scale_tril=torch.tensor([[1.0, 0.0], [0.5, 1.0]]).to(x))


def low_rank(rank):
    return lambda x: dist.LowRankMultivariateNormal(x, x.new_ones(2, rank), spread(x))


def flow(x):
    return dist.TransformedDistribution(dist.Normal(x, spread(x)), [dist.transforms.Planar(2).to(x)])


@pytest.mark.parametrize(
    ("model", "law", "family"),
    [
        (two_reals, lambda x: dist.Normal(x, spread(x)).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.Laplace(x, spread(x)).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.StudentT(4.0, x, spread(x)).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.Cauchy(x, spread(x)).mask(True).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.Uniform(x, x + 3).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.TransformedDistribution(
            dist.Normal(x, spread(x)), [AffineTransform(1.0, 2.0)]).to_event(1), ("diagonal", True)),
        (two_reals, lambda x: dist.LogNormal(x, spread(x)).to_event(1), None),
        (two_reals, full, ("full_rank", True)),
        (two_reals, low_rank(1), ("full_rank", True)),
        (two_reals, flow, None),
        (two_reals, lambda x: dist.MixtureSameFamily(
            dist.Categorical(x.new_ones(len(x), 2)), dist.Normal(torch.stack([x, -x], 1), 1.0).to_event(1)), None),
        (positive, lambda x: dist.LogNormal(x, spread(x)).to_event(1), ("diagonal", True)),
        (positive, lambda x: dist.Gamma(spread(x), spread(x)).to_event(1), None),
        (positive, lambda x: dist.TransformedDistribution(
            dist.Laplace(x, spread(x)).to_event(1), [ExpTransform()]), ("diagonal", True)),
        (between, lambda x: dist.TransformedDistribution(
            dist.Normal(x, spread(x)), [SigmoidTransform(), AffineTransform(0.0, 3.0)]).to_event(1),
            ("diagonal", True)),
        (between, lambda x: dist.TransformedDistribution(
            dist.Normal(x, spread(x)), [SigmoidTransform(), AffineTransform(0.5, 2.0)]).to_event(1), None),
    ],
)  # fmt: skip
def test_the_trace_says_what_q_is(model, law, family):
    x = torch.rand(6, 2).double()
    assert own_family(model, guide_of(law), x) == family


def independent(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("b", dist.LogNormal(x[:, 0], 0.5))
        pyro.sample("a", dist.Normal(x, 0.5).to_event(1))


def one_after_the_other(x):
    with pyro.plate("data", len(x), dim=-1):
        b = pyro.sample("b", dist.LogNormal(x[:, 0], 0.5))
        pyro.sample("a", dist.Normal(x + b.unsqueeze(-1), 0.5).to_event(1))


def half_full(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("b", dist.LogNormal(x[:, 0], 0.5))
        pyro.sample("a", full(x))


def noise_of_its_own(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("b", dist.LogNormal(x[:, 0] + torch.randn(len(x)).to(x), 0.5))
        pyro.sample("a", dist.Normal(x, 0.5).to_event(1))


def with_an_auxiliary_variable(x):
    with pyro.plate("data", len(x), dim=-1):
        v = pyro.sample("v", dist.Normal(x[:, 0], 1.0), infer={"is_auxiliary": True})
        reverse = -dist.Normal(0.0, 1.0).log_prob(v)
        pyro.factor("reverse", reverse, has_rsample=True)
        pyro.sample("b", dist.LogNormal(v, 0.5))
        pyro.sample("a", dist.Normal(x, 0.5).to_event(1))


@pytest.mark.parametrize(
    ("guide", "family"),
    [
        (independent, ("diagonal", True)),
        (one_after_the_other, None),
        (half_full, ("full_rank", False)),
        (noise_of_its_own, None),
        (with_an_auxiliary_variable, None),
    ],
)
def test_several_sites_are_diagonal_only_together(guide, family):
    x = torch.rand(6, 2).double()
    assert own_family(two_sites, guide, x) == family


class MyGamma(dist.Gamma):
    family = "diagonal"


def test_what_is_said_is_believed():
    x = torch.rand(6, 2).double()
    assert own_family(positive, guide_of(lambda x: MyGamma(spread(x), 1.0).to_event(1)), x) == (
        "diagonal",
        True,
    )
    guide = guide_of(flow)
    guide.family, guide.fills_family = "full_rank", False
    assert own_family(two_reals, guide, x) == ("full_rank", False)
    guide.family = "banana"
    assert own_family(two_reals, guide, x) is None


KNOWN = {
    "mean_field": ("diagonal", True),
    "local": ("diagonal", True),
    "semi_amortized": ("diagonal", True),
    "full_rank": ("full_rank", True),
    "low_rank": ("full_rank", False),
    "householder": ("full_rank", True),
    **dict.fromkeys(("auxiliary", "iaf", "mixture", "planar", "spline", "sylvester", "bottom_up", "top_down")),
}


@pytest.mark.parametrize("name", part_names("guide"))
def test_every_guide_of_the_library(name):
    x = torch.rand(6, 1, 2, 2).round()
    model, guide = make_pair((1, 2, 2), 3, (4,), model=model_for(name), guide=name, data=lambda: x)
    found = own_family(model, guide, data_for(name, x))
    assert found == KNOWN.get(name, found)


@pytest.mark.parametrize("law", [dist.Normal, lambda loc, scale: dist.StudentT(50.0, loc, scale)])
def test_the_approximation_gap_of_a_plain_function(law):
    """A diagonal Gaussian for a correlated one, in closed form; a flow would print next to nothing."""
    loadings = torch.tensor([[1.0, 0.9], [0.2, -0.4], [0.5, 0.3]]).double()
    model = LinearGaussian.from_values(loadings, torch.zeros(3).double(), 0.5)
    model.requires_grad_(False)
    x = model.evidence().sample((4,))
    precision = model.posterior(x).precision_matrix
    truth = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - precision.logdet())

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            scale = precision.diagonal(dim1=-2, dim2=-1).rsqrt()[:1].expand(len(x), -1)
            pyro.sample("z", law(model.posterior(x).mean + 0.2 * scale, 1.2 * scale).to_event(1))

    gaps = inference_gaps(
        model, guide, x, num_samples=1000, evidence_samples=2000, max_steps=600, learning_rate=0.05, seed=0
    )
    assert gaps.family == "diagonal"
    assert truth.mean() > 0.2
    assert math.isclose(gaps.approximation_gap.mean, truth.mean(), abs_tol=0.03)
    assert "larger" not in str(gaps)
    assert gaps.summary()["larger_family"] is False


def test_a_larger_family_is_said_to_be_one(linear_gaussian):
    few = {"max_steps": 4, "check_every": 2, "num_samples": 4, "evidence_samples": 4}
    x = linear_gaussian.data(3)
    for family, larger in (("own", False), ("diagonal", False), ("full_rank", True), ("flow", True)):
        gaps = inference_gaps(linear_gaussian.model, linear_gaussian.inexact_guide, x, family=family, **few)
        assert gaps.larger_family is larger
        assert gaps.summary()["larger_family"] is larger
        assert ("(family larger than the guide's own)" in str(gaps)) is larger
