"""Draws and densities of guides in unconstrained coordinates, against densities by hand."""

import pyro
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae.evaluation.over_data.guide_draws import GuideDraws
from pyro_vae.guides import AuxiliaryGuide, InverseAutoregressiveGuide, PlanarGuide
from pyro_vae.models import VAE
from pyro_vae.programs.joint import Joint


def two_sites(x):
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, rate.unsqueeze(-1)).to_event(1), obs=x)


def two_sites_guide(x):
    """In another order than the model's, and one site depends on the other."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))
        pyro.sample("rate", dist.LogNormal(z.sum(-1), 0.5))


def one_by_one_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))
        if z.ndim > 2:
            raise ValueError("two dims, please")
        pyro.sample("rate", dist.LogNormal(z.sum(-1), 0.5))


def data(n=4):
    return torch.randn(n, 2).double()


def parts(model, guide, x):
    joint = Joint("test", model, x)
    return joint, GuideDraws(joint, model, guide, x)


def log_q(u, x):
    """Of z = u[1:] and rate = exp(u[0])."""
    z, log_rate = u[..., 1:], u[..., 0]
    of_rate = dist.Normal(z.sum(-1), 0.5).log_prob(log_rate) - log_rate
    return dist.Normal(0.5 * x, 0.7).log_prob(z).sum(-1) + of_rate


def test_draws_come_in_the_models_coordinates_with_their_weights():
    x = data()
    for guide in (two_sites_guide, one_by_one_guide):
        joint, draws = parts(two_sites, guide, x)
        u, terms = draws.draw(x, 5)
        assert u.shape == (5, 4, 3)
        assert len(u.unique()) == 60
        assert_close(terms.log_guide, log_q(u, x))
        at = joint.terms(x, u)
        assert_close(terms.log_joint, at.log_joint - at.log_volume)


def test_any_coordinates_can_be_scored():
    x = data()
    u = torch.randn(6, 4, 3).double()
    for guide in (two_sites_guide, one_by_one_guide):
        _, draws = parts(two_sites, guide, x)
        assert draws.why_no_density(x) is None
        assert_close(draws.log_density(x, u), log_q(u, x))


def test_a_plate_of_the_guides_own_does_not_matter():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("more", 3, dim=-2):
                pyro.sample("own", dist.Normal(x.new_zeros(1), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))
            pyro.sample("rate", dist.LogNormal(x.sum(-1), 0.5))

    x = data()
    _, draws = parts(two_sites, guide, x)
    u, terms = draws.draw(x, 5)
    assert u.shape == (5, 4, 3)
    assert terms.log_guide.shape == (5, 4)
    assert draws.why_no_density(x).startswith("the guide has sites of its own (own)")


def test_an_autoregressive_flow_scores_what_it_drew_and_what_it_did_not():
    x = torch.rand(4, 3).bernoulli()
    model = VAE((3,), latent_dim=2, hidden_dims=(4,))
    guide = InverseAutoregressiveGuide((3,), latent_dim=2, hidden_dims=(4,))
    with torch.no_grad():
        joint, draws = parts(model, guide, x)
        u, terms = draws.draw(x, 5)
        assert_close(draws.log_density(x, u), terms.log_guide, rtol=1e-4, atol=1e-4)
        assert draws.log_density(x, joint.draw(x, 2)).isfinite().all()


def test_guides_without_a_density_say_why():
    x = torch.rand(4, 3).bernoulli()
    model = VAE((3,), latent_dim=2, hidden_dims=(4,))
    _, planar = parts(model, PlanarGuide((3,), latent_dim=2, hidden_dims=(4,)), x)
    assert "cannot score a z that it did not draw (ValueError: PlanarGuide: this flow has no inverse" in (
        planar.why_no_density(x)
    )
    _, auxiliary = parts(model, AuxiliaryGuide((3,), latent_dim=2, hidden_dims=(4,)), x)
    assert auxiliary.why_no_density(x).startswith("the guide has sites of its own (v, log_reverse)")

    def noisy(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.randn(len(x), 2), 1.0).to_event(1))

    _, random = parts(model, noisy, x)
    assert random.why_no_density(x) == "the guide, run again with the values it drew, gives them another density"
