"""The joint density in flat unconstrained coordinates: closed forms, Pyro's own potential, round trips, refusals."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from refusals import LAYOUTS, leave
from torch.testing import assert_close

from pyro_vae.errors import PairError
from pyro_vae.graphs.capture import capture
from pyro_vae.parts import make_pair, part_names
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.layouts import OneByOne


def several_sites(x):
    """Supports of every kind, a plate inside and one beside, a support that another site sets, a mask and a scale."""
    with pyro.plate("data", len(x), dim=-2):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.0))
        shares = pyro.sample("shares", dist.Dirichlet(x.new_ones(3)))
        end = pyro.sample("end", dist.Uniform(torch.zeros_like(rate), rate))
        with pyro.plate("inner", 4, dim=-1):
            z = pyro.sample("z", dist.Normal(end, rate))
            with pyro.poutine.scale(scale=7.0), pyro.poutine.mask(mask=x > -1):
                pyro.sample("x", dist.Normal(z + shares[..., 0], 0.5), obs=x)


def refusing(layout):
    """The same site, by a network that refuses the other layouts."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            leave(layout, z, ndim=2, rows=5)
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    return model


def data(n=6):
    return torch.randn(n, 4).double()


def test_terms_are_the_closed_ones(linear_gaussian):
    x = linear_gaussian.data(7)
    joint = Joint("test", linear_gaussian.model, x)
    u = joint.draw(x, 5)
    assert u.shape == (5, 7, joint.dim)
    terms = joint.terms(x, u)
    log_posterior = linear_gaussian.model.posterior(x).log_prob(u)
    assert_close(terms.log_joint, linear_gaussian.evidence(x) + log_posterior, rtol=1e-9, atol=1e-9)
    assert_close(terms.log_prior, dist.Normal(torch.zeros_like(u), 1.0).log_prob(u).sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", part_names("prior"))
def test_every_prior_has_its_density(prior):
    x = torch.randint(0, 2, (3, 6)).float()
    options = {"vamp": "vamp(num_components=3)"}
    model, _ = make_pair((6,), 2, (5,), prior=options.get(prior, prior), data=lambda: x)
    joint = Joint("test", model, x)
    u = joint.draw(x, 4)
    z = joint.values(x, u)["z"]
    terms = joint.terms(x, u)
    with torch.no_grad():
        assert_close(terms.log_prior, model.prior().log_prob(z), rtol=1e-5, atol=1e-5)
        assert_close(terms.log_likelihood, model.likelihood(z).log_prob(x), rtol=1e-5, atol=1e-5)


def test_several_sites_by_hand():
    x, reach = data(), -1.0
    joint = Joint("test", several_sites, x)
    assert [(name, part.stop - part.start) for name, part in joint.parts.items()] == [
        ("rate", 1), ("shares", 2), ("end", 1), ("z", 4),
    ]  # fmt: skip
    u = torch.randn(3, 6, joint.dim).double()
    terms, values = joint.terms(x, u), joint.values(x, u)

    def free(u, chain, datum):
        """As many numbers as u has: of shares on a simplex, the last one follows from the others."""
        at = joint.values(x, torch.cat([full[:chain], with_u(u, chain, datum), full[chain + 1 :]]))
        picked = [at[name][chain, datum].flatten() for name in ("rate", "shares", "end", "z")]
        return torch.cat([picked[0], picked[1][:2], *picked[2:]])

    def with_u(u, chain, datum):
        return torch.cat([full[chain, :datum], u[None], full[chain, datum + 1 :]])[None]

    full = u
    for chain, datum in ((0, 0), (2, 5), (1, 3)):
        one = {name: value[chain, datum] for name, value in values.items()}
        prior = (
            dist.Gamma(2.0, 1.0).log_prob(one["rate"]).sum()
            + dist.Dirichlet(torch.ones(3).double()).log_prob(one["shares"]).sum()
            + dist.Uniform(0.0, one["rate"]).log_prob(one["end"]).sum()
            + dist.Normal(one["end"], one["rate"]).log_prob(one["z"]).sum()
        )
        jacobian = torch.autograd.functional.jacobian(partial(free, chain=chain, datum=datum), u[chain, datum])
        assert_close(terms.log_volume[chain, datum], torch.linalg.slogdet(jacobian).logabsdet)
        assert_close(terms.log_prior[chain, datum], prior + terms.log_volume[chain, datum])
        seen = dist.Normal(one["z"] + one["shares"][..., 0], 0.5).log_prob(x[datum])
        assert_close(terms.log_likelihood[chain, datum], seen[x[datum] > reach].sum())


def test_coordinates_come_back_from_a_run():
    x = data()
    joint = Joint("test", several_sites, x)
    u = 2 * torch.randn(3, 6, joint.dim).double()
    ((run, _),) = joint._runs(x, u)
    assert_close(joint.coordinates(run), u, rtol=1e-6, atol=1e-6)


def test_draws_follow_the_prior():
    x = data(2000)
    joint = Joint("test", several_sites, x)
    rates = joint.values(x, joint.draw(x, 10))["rate"]
    # Gamma(2, 1): mean and variance 2.
    assert (rates.mean() - 2).abs() < 4 * (2 / rates.numel()) ** 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chains_in_every_layout(layout, caplog):
    x = data(5)
    joint = Joint("test", refusing(layout), x)
    assert joint.pair.vectorizes == (layout is not OneByOne)
    assert ("run one by one" in caplog.text) == (layout is OneByOne)
    u = joint.draw(x, 3)
    assert u.shape == (3, 5, 2)
    assert len(u.unique()) == 30
    terms = joint.terms(x, u)
    seen = dist.Normal(u.sum(-1, keepdim=True), 1.0).log_prob(x).sum(-1)
    assert_close(terms.log_joint, seen + dist.Normal(torch.zeros_like(u), 1.0).log_prob(u).sum(-1))
    assert_close(torch.cat([joint.coordinates(run) for run, _ in joint._runs(x, u)]), u)


def test_terms_and_their_gradient_can_be_captured(linear_gaussian):
    x, other = linear_gaussian.data(7), linear_gaussian.data(7)
    joint = Joint("test", linear_gaussian.model, x)

    def uphill(x, u):
        u = u.detach().requires_grad_()
        log_joint = joint.terms(x, u).log_joint
        return [log_joint.detach(), *torch.autograd.grad(log_joint.sum(), u)]

    u = joint.draw(x, 4)
    captured = capture(uphill, [x, u], [other, u.flip(0)])
    for found, expected in zip(captured.on(other, 2 * u)(), uphill(other, 2 * u), strict=True):
        assert_close(found, expected)


def test_data_drawn_from_the_model_belong_to_their_coordinates(make_linear_gaussian):
    case = make_linear_gaussian()
    shape = torch.zeros(20_000, 5).double()
    joint = Joint("test", case.model, shape)
    x, u = joint.simulate(shape)
    assert u.shape == (1, 20_000, 3)
    noise = x - u[0] @ case.model.loadings.mT - case.model.bias
    # The variance of 100 000 squares of a normal is 2 s^4 / 100 000.
    variance = case.model.log_scale.exp() ** 2
    assert (noise.square().mean() - variance).abs() < 4 * variance * (2 / noise.numel()) ** 0.5
    assert_close(x.T.cov(), case.model.evidence().covariance_matrix, rtol=0.1, atol=0.1)
    again, _ = joint.simulate((shape,))
    assert isinstance(again, tuple)


def discrete(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("which", dist.Bernoulli(x.new_tensor(0.5)))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)


def two_observed(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2, dim=-1) as rows:
        z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])


def no_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.sum(-1))


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match=r"ais: .*'which' is discrete"):
        Joint("ais", discrete, data())
    with pytest.raises(ValueError, match="ais: plate 'data' takes 2 of"):
        Joint("ais", subsampled, data())
    with pytest.raises(PairError, match="no batch plate"):
        Joint("ais", no_plate, data())
    with pytest.raises(ValueError, match=r"observes \(6, 4\), \(6,\) where"):
        Joint("bdmc", two_observed, data()).simulate(data())


def test_a_point_mass_among_the_latent_sites_is_refused_by_name():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            twice = pyro.sample("twice", dist.Delta(2 * z, event_dim=1))
            pyro.sample("x", dist.Normal(twice, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'twice' is a point mass"):
        Joint("here", model, torch.zeros(5, 2))
