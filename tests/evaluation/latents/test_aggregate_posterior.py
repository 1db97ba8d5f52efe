"""The mixture of all posteriors against a loop over draws and data."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from refusals import LAYOUTS, leave
from torch.testing import assert_close

from pyro_vae.evaluation.latents.aggregate_posterior import ForeignDensityError, MixtureBlocks, log_aggregate
from pyro_vae.evaluation.over_data.latent_draws import LatentDraws, by_datum
from pyro_vae.guides import AuxiliaryGuide, InverseAutoregressiveGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.programs.layouts import OuterPlate


def by_hand(posteriors, z, members):
    """log 1/M sum over members of q(z | x_m), for z ``(S, N, d)`` and a law of batch ``(N,)``."""
    log_q = posteriors.log_prob(z.flatten(0, 1).unsqueeze(1).expand(-1, len(members), -1))
    return log_q[:, members].logsumexp(1).sub(math.log(members.sum())).unflatten(0, z.shape[:2])


SMALL = MixtureBlocks(components=4, latents=60, pairs=20, rows=20)


def draws_of(model, guide, x):
    return LatentDraws("here", model, guide, x, 3, None, False)


@pytest.mark.parametrize("kind", ["diagonal", "full_rank"])
def test_gaussian_posteriors(linear_gaussian, kind):
    case = linear_gaussian
    x, z = case.data(11), torch.randn(3, 11, 3, dtype=torch.float64)
    members = torch.arange(11) != 6
    guide = case.exact_guide if kind == "full_rank" else case.inexact_guide
    law = case.model.posterior(x) if kind == "full_rank" else case.diagonal(x)
    found = log_aggregate(draws_of(case.model, guide, x), {"z": z}, members, blocks=SMALL)[-1]
    assert_close(found, by_hand(law, z, members), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-1, 1e-4, 1e-7])
def test_a_narrow_gaussian_loses_nothing_to_cancellation(scale):
    """Taken apart, the exponent at scale 1e-7 has terms of 1e14, which hold no more than two digits of it."""
    loc = torch.randn(8, 2, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(loc[0]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, scale).to_event(1))

    z = loc + scale * torch.randn(3, 8, 2, dtype=torch.float64)
    found = log_aggregate(draws_of(model, guide, loc), {"z": z}, torch.ones(8, dtype=torch.bool))[-1]
    assert_close(found, by_hand(dist.Normal(loc, scale).to_event(1), z, torch.ones(8, dtype=torch.bool)))


class TwoSites:
    """z1, then z2 given z1; `together` is the same law at one site."""

    def __init__(self, layout=OuterPlate):
        self.layout = layout

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x, 0.5).to_event(1))
            leave(self.layout, z1, ndim=2, rows=9)
            pyro.sample("z2", dist.Normal(0.3 * z1 - x, 0.2).to_event(1))

    @staticmethod
    def together(x):
        factor = torch.tensor([[0.5, 0.0], [0.15, 0.2]], dtype=torch.float64)
        return dist.MultivariateNormal(torch.cat([x, -0.7 * x], -1), scale_tril=factor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_sites_are_scored_by_running_the_guide_again(layout):
    pair, x = TwoSites(layout), torch.randn(9, 1, dtype=torch.float64)
    members = torch.arange(9) != 2
    draws = draws_of(pair.model, pair.guide, x)
    assert type(draws.pair.layout) is layout
    z = torch.randn(3, 9, 2, dtype=torch.float64)
    found = log_aggregate(draws, {"z1": z[..., :1], "z2": z[..., 1:]}, members, blocks=SMALL)[-1]
    assert_close(found, by_hand(pair.together(x), z, members), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [-2, -3])
def test_an_inner_plate_is_summed_over(dim):
    """At dim -3 the site has a batch dim of nobody between its plates; `w` is in no inner plate at all."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("pixels", 2, dim=dim):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=raised(x))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(x[:, 0], 2.0))
            with pyro.plate("pixels", 2, dim=dim):
                pyro.sample("z", dist.Normal(raised(x), 0.5))

    def raised(x):
        return x.T if dim == -2 else x.T.unsqueeze(1)

    x, z = torch.randn(7, 2).double(), torch.randn(3, 7, 3).double()
    members = torch.ones(7, dtype=torch.bool)
    law = dist.Normal(torch.cat([x, x[:, :1]], 1), torch.tensor([0.5, 0.5, 2.0]).double()).to_event(1)
    draws = draws_of(model, guide, x)
    (drawn,) = draws
    sites = {name: drawn.run.guide_trace.nodes[name] for name in ("z", "w")}
    assert [by_datum(drawn.run, site, site["value"]).shape[2:] for site in sites.values()] == [(2,), ()]
    found = log_aggregate(draws, {"z": z[..., :2], "w": z[..., 2]}, members, blocks=SMALL)[-1]
    assert_close(found, by_hand(law, z, members), rtol=1e-10, atol=1e-10)


def test_a_flow_is_inverted():
    guide = InverseAutoregressiveGuide((4,), 2, hidden_dims=(8,), num_flows=2).double()
    model = VAE((4,), 2, hidden_dims=(8,)).double()
    x, z = torch.zeros(5, 4).double().bernoulli_(0.5), torch.randn(3, 5, 2).double()
    members = torch.ones(5, dtype=torch.bool)
    found = log_aggregate(draws_of(model, guide, x), {"z": z}, members)[-1]
    with torch.no_grad():
        assert_close(found, by_hand(guide.posterior(x), z, members), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("inside", [True, False])
def test_posteriors_of_fewer_variables_do_not_mix(inside):
    """A mask on the law or around the site; where it hides nothing, it changes nothing."""

    def program(law, seen):
        def run(x, there):
            with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=True if inside else there):
                masked = law(x).mask(there.unsqueeze(-1)) if inside else law(x)
                z = pyro.sample("z", masked.to_event(1))
                if seen:
                    # What follows from a latent that a mask hides must be hidden as well.
                    follows = dist.Normal(z, 1.0).mask(there.unsqueeze(-1)) if inside else dist.Normal(z, 1.0)
                    pyro.sample("x", follows.to_event(1), obs=x)

        return run

    model = program(lambda x: dist.Normal(torch.zeros_like(x), 1.0), True)
    guide = program(lambda x: dist.Normal(x, 0.5), False)
    x, z = torch.randn(5, 2).double(), torch.randn(3, 5, 2).double()
    members, there = torch.ones(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)
    units = there.unsqueeze(-1).repeat(1, 2)
    found = log_aggregate(draws_of(model, guide, (x, there)), {"z": z}, members, units)[-1]
    assert_close(found, by_hand(dist.Normal(x, 0.5).to_event(1), z, members))
    there[3] = units[3] = members[2] = False
    with pytest.raises(ForeignDensityError, match="mask different latent"):
        log_aggregate(draws_of(model, guide, (x, there)), {"z": z}, members, units)
    # Of members alone it is asked.
    members[3] = False
    found = log_aggregate(draws_of(model, guide, (x, there)), {"z": z}, members, units)[-1]
    assert_close(found, by_hand(dist.Normal(x, 0.5).to_event(1), z, members))


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (PlanarGuide((4,), 2, hidden_dims=(8,)), "this flow has no inverse"),
        (AuxiliaryGuide((4,), 2, hidden_dims=(8,)), r"sites of its own \(v, "),
    ],
)
def test_a_guide_that_cannot_score_says_why(guide, reason):
    x = torch.zeros(5, 4)
    draws = draws_of(VAE((4,), 2, hidden_dims=(8,)), guide, x)
    with pytest.raises(ForeignDensityError, match=reason):
        log_aggregate(draws, {"z": torch.zeros(3, 5, 2)}, torch.ones(5, dtype=torch.bool))
