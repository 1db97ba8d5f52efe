"""The densities between q_0 and the posterior: closed forms, slopes by differences, any pair, and what is refused."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from refusals import LAYOUTS, leave
from torch.testing import assert_close

from pyro_vae.evaluation.annealing.density_path import Path
from pyro_vae.graphs.capture import capture
from pyro_vae.guides import AuxiliaryGuide, InverseAutoregressiveGuide, MeanFieldGuide, PlanarGuide, SplineGuide
from pyro_vae.models import VAE
from pyro_vae.programs.layouts import OneByOne
from pyro_vae.programs.pair import Pair


def check_slopes(path, x, u):
    """Central differences in float64: to about h^2 of the third derivatives."""
    base, ratio, base_slope, ratio_slope = path.at(x, u)
    assert base.shape == ratio.shape == u.shape[:2]
    for dim in range(u.shape[-1]):
        step = 1e-5 * torch.eye(u.shape[-1], dtype=u.dtype)[dim]
        ahead, behind = path.at(x, u + step)[:2], path.at(x, u - step)[:2]
        for slope, one, other in zip((base_slope, ratio_slope), ahead, behind, strict=True):
            assert_close(slope[..., dim], (one - other) / 2e-5, rtol=1e-5, atol=1e-5)


def test_from_the_prior_the_terms_are_the_closed_ones(linear_gaussian):
    x = linear_gaussian.data(7)
    path = Path("test", linear_gaussian.model, None, x)
    assert path.start == "prior"
    u = path.draw(x, 4)
    base, ratio, *_ = path.at(x, u)
    assert_close(base, dist.Normal(torch.zeros_like(u), 1.0).log_prob(u).sum(-1))
    log_joint = linear_gaussian.evidence(x) + linear_gaussian.model.posterior(x).log_prob(u)
    assert_close(base + ratio, log_joint, rtol=1e-9, atol=1e-9)
    check_slopes(path, x, u)


def test_from_a_guide_they_are_those_of_the_guide(linear_gaussian):
    x = linear_gaussian.data(7)
    path = Path("test", linear_gaussian.model, linear_gaussian.inexact_guide, x)
    assert path.start == "guide"
    u = 2 * torch.randn(4, 7, 3).double()
    base, ratio, *_ = path.at(x, u)
    assert_close(base, linear_gaussian.diagonal(x).log_prob(u), rtol=1e-9, atol=1e-9)
    log_joint = linear_gaussian.evidence(x) + linear_gaussian.model.posterior(x).log_prob(u)
    assert_close(base + ratio, log_joint, rtol=1e-9, atol=1e-9)
    check_slopes(path, x, u)


def test_draws_of_a_guide_follow_it(linear_gaussian):
    x = linear_gaussian.data(3)
    u = Path("test", linear_gaussian.model, linear_gaussian.inexact_guide, x).draw(x, 4000)
    law = linear_gaussian.diagonal(x)
    assert ((u.mean(0) - law.mean).abs() < 4 * law.stddev / 4000**0.5).all()
    assert ((u.var(0) - law.variance).abs() < 4 * law.variance * (2 / 4000) ** 0.5).all()


def two_rates(x):
    """Positive latents, one of them in a plate of its own, the data in a dim of their own."""
    with pyro.plate("data", len(x), dim=-2):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
        with pyro.plate("inner", 3, dim=-1):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros_like(rate), 1.0))
            pyro.sample("x", dist.Normal(rate, scale), obs=x)


def guide_of_two_rates(x):
    with pyro.plate("data", len(x), dim=-2):
        # The other way round than in the model.
        with pyro.plate("inner", 3, dim=-1):
            pyro.sample("scale", dist.LogNormal(0.1 * x, 0.5))
        pyro.sample("rate", dist.Gamma(x.mean(-1, keepdim=True).exp() + 1, 2.0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_constrained_sites_and_guides_in_every_layout(layout):
    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("inner", 3, dim=-1):
                scale = pyro.sample("scale", dist.LogNormal(0.1 * x, 0.5))
            leave(layout, scale, ndim=2, rows=5)
            pyro.sample("rate", dist.Gamma(x.mean(-1, keepdim=True).exp() + 1, 2.0))

    x = torch.randn(5, 3).double()
    path = Path("test", two_rates, guide, x)
    assert path.vectorizes == (layout is not OneByOne)
    u = path.draw(x, 4)
    assert u.shape == (4, 5, 4)
    assert len(u.unique()) == u.numel()
    base, ratio, *_ = path.at(x, u)
    # The change of variables is exp for all four: log|dz/du| = u.
    rate, scale = u[..., :1].exp(), u[..., 1:].exp()
    prior = dist.Gamma(2.0, 1.0).log_prob(rate).sum(-1) + dist.LogNormal(0.0, 1.0).log_prob(scale).sum(-1)
    guided = dist.Gamma(x.mean(-1, keepdim=True).exp() + 1, 2.0).log_prob(rate).sum(-1)
    guided = guided + dist.LogNormal(0.1 * x, 0.5).log_prob(scale).sum(-1)
    assert_close(base, guided + u.sum(-1), rtol=1e-7, atol=1e-7)
    assert_close(ratio, dist.Normal(rate, scale).log_prob(x).sum(-1) + prior - guided, rtol=1e-7, atol=1e-7)
    check_slopes(path, x, u)


def deeper(x):
    """A guide with a plate further left than any of the model's."""
    with pyro.plate("more", 1, dim=-3):
        guide_of_two_rates(x)


def test_a_guide_with_more_plates_than_the_model():
    x = torch.randn(5, 3).double()
    shallow, deep = (Path("test", two_rates, guide, x) for guide in (guide_of_two_rates, deeper))
    u = deep.draw(x, 4)
    assert_close(deep.at(x, u), shallow.at(x, u))


@pytest.mark.parametrize("guide_class", [InverseAutoregressiveGuide, SplineGuide])
def test_a_flow_with_an_inverse_gives_other_z_the_density_that_it_gave_its_draws(guide_class):
    model, guide = VAE((6,), 2, (5,)).double(), guide_class((6,), 2, (5,)).double()
    x = torch.randint(0, 2, (7, 6)).double()
    path = Path("test", model, guide, x)
    torch.manual_seed(0)
    u = path.draw(x, 3)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = Pair(model, guide, x).terms(x, 3)
    base, ratio, *_ = path.at(x, u)
    assert_close(base, drawn.log_guide, rtol=1e-9, atol=1e-9)
    assert_close(ratio, drawn.log_weight, rtol=1e-9, atol=1e-9)
    check_slopes(path, x, u)


def test_terms_and_slopes_can_be_captured_with_the_encoder_shared():
    model, guide = VAE((6,), 2, (5,)), MeanFieldGuide((6,), 2, (5,))
    x, other = torch.randint(0, 2, (2, 7, 6)).float()
    path = Path("test", model, guide, x)
    u = path.draw(x, 3)
    captured = capture(lambda x, u: path.at(x, u), [x, u], [other, u.flip(0)], [model, guide], varying=1)
    at = captured.on(other)
    for point in (2 * u, u):
        for found, expected in zip(at(point), path.at(other, point), strict=True):
            assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for value in guide.parameters():
            value.fill_(torch.nan)
    # The encoder depends on x alone, and is not run again.
    assert all(part.isfinite().all() for part in at(u))


def test_a_ratio_that_does_not_depend_on_u_has_no_slope():
    def idle(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), obs=x)

    x = torch.randn(5, 3)
    path = Path("test", idle, None, x)
    assert (path.at(x, path.draw(x, 2))[3] == 0).all()


def noisy_density(x):
    with pyro.plate("data", len(x), dim=-1):
        loc = torch.nn.functional.dropout(x[:, :3])
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (
            PlanarGuide((5,), 3).double(),
            "the guide cannot .*no inverse",
        ),
        (AuxiliaryGuide((5,), 3).double(), "sites of its own .v, log_rev"),
        (noisy_density, "the guide, run again"),
    ],
)
def test_a_guide_without_a_density_of_its_own_is_refused(linear_gaussian, guide, message):
    with pytest.raises(ValueError, match=rf"^ais: .*{message}.*guide=None\.$"):
        Path("ais", linear_gaussian.model, guide, linear_gaussian.data(4))
