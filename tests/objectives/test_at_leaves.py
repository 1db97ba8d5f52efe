"""Gradients that reach the guide through its samples alone, and weights of zero."""

import pyro
import pytest
import torch
from gaussian_toy import Toy
from pyro import distributions as dist
from pyro.distributions.transforms import planar, radial, sylvester
from torch.testing import assert_close

from pyro_vae.objectives import DReG, ReweightedWakeSleep, StickingTheLanding
from pyro_vae.objectives.at_leaves import leaves_of, through_samples, weighted
from pyro_vae.programs.pair import Pair


def test_through_samples_is_the_chain_rule_through_z():
    """Of f = sum z^3 at z = loc + scale e: 3 z^2 and 3 z^2 scale e, each site's share multiplied by what is left."""
    toy = Toy(6)
    noise = toy.noise(4)
    pair = Pair(toy.model, toy.guide, toy.x)
    assert pair.vectorizes
    torch.manual_seed(0)
    (run,) = pair.run(toy.x, 4, at=leaves_of)
    leaf = run.model_trace.nodes["z"]["value"]
    assert leaf.is_leaf
    path = through_samples(run, leaf.pow(3).sum(-1), lambda _: 0.5)
    assert path.shape == (4, 6)
    found = torch.autograd.grad(path.sum(), [toy.loc, toy.log_scale])
    z = toy.loc.detach() + toy.log_scale.detach().exp() * noise
    exact = 0.5 * 3 * z.square()
    assert_close(found[0], exact.sum(0), rtol=1e-10, atol=1e-10)
    assert_close(found[1], (exact * toy.log_scale.detach().exp() * noise).sum(0), rtol=1e-10, atol=1e-10)


def test_the_model_at_leaves_gives_the_guide_no_gradient():
    toy = Toy(6)
    (run,) = Pair(toy.model, toy.guide, toy.x).run(toy.x, 4, at=leaves_of)
    gradients = torch.autograd.grad(run.terms().log_joint.sum(), toy.parameters(), allow_unused=True)
    assert gradients[0] is None
    assert gradients[1] is None
    assert gradients[2].abs().min() > 0


def test_a_weight_of_zero_hides_an_infinite_value():
    values = torch.tensor([-torch.inf, 2.0], requires_grad=True)
    found = weighted(torch.tensor([0.0, 0.5]), values)
    assert_close(found, torch.tensor([0.0, 1.0]))
    found.sum().backward()
    assert_close(values.grad, torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("make", [lambda: planar(2), lambda: radial(2), lambda: sylvester(2)])
@pytest.mark.parametrize(
    "objective",
    [StickingTheLanding(), DReG(), ReweightedWakeSleep(), ReweightedWakeSleep(insomnia=0.0)],
    ids=["stl", "dreg", "wake", "sleep"],
)
@pytest.mark.parametrize("sites", [1, 2])
def test_a_flow_without_an_inverse_is_refused_in_one_sentence(make, objective, sites):
    flow, zero = make().double(), torch.zeros(2, dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(zero.expand(len(x), 2), 1.0).to_event(1), [flow]))
            if sites == 2:
                pyro.sample("w", dist.Normal(zero[0], 1.0).expand([len(x)]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            if sites == 2:
                pyro.sample("w", dist.Normal(zero[0], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(5, 2).double()
    with pytest.raises(ValueError, match=f"^{type(objective).__name__}: .*no inverse"):
        objective.tensor_loss(model, guide, x)
