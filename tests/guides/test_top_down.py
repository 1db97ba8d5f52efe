"""The ladder guide: its product of Gaussians, and exact on a linear chain with orthogonal loadings."""

import pytest
import torch
from linear_chain import LinearChain
from pyro import distributions as dist
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

import pyro_vae
from pyro_vae import log_weights
from pyro_vae.guides import TopDownGuide
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.models.priors import VampPrior
from pyro_vae.parts import make_pair
from pyro_vae.testing import GuideSuite


def exact_guide(chain, stretch=1.0):
    """z_1 with orthogonal loadings, one top dim: p(x | z_1) is the estimate of z_1, and p(z_2 | x) that of z_2."""
    x_dim, *dims = chain.sizes
    guide = TopDownGuide((x_dim,), 1, (), inner_latent_dims=dims[:-1], inner_hidden_dims=(), model=chain.model).double()
    loadings, shift = chain.maps[0], chain.shifts[0]
    squares = loadings.square().sum(0)
    slope, intercept, covariance = chain.conditional(2, 0)
    laws = [
        (loadings.mT / squares[:, None], -(loadings.mT @ shift) / squares, chain.scales[0] / squares.sqrt()),
        (slope, intercept, covariance.diagonal().sqrt()),
    ]
    with torch.no_grad():
        for estimate, (weight, bias, scale) in zip(guide.estimates, laws, strict=True):
            estimate.encoder.output.weight.zero_()[: len(weight)] = weight
            estimate.encoder.output.bias.copy_(torch.cat([bias, (stretch * scale).log()]))
    return guide


def test_every_weight_of_a_chain_equals_the_evidence():
    chain = LinearChain(5, (3, 1), orthogonal=True)
    x = chain.marginal(0).sample((7,))
    with torch.no_grad():
        found = log_weights(chain.model, exact_guide(chain), x, num_samples=3)
    assert_close(found, chain.marginal(0).log_prob(x).expand(3, 7), rtol=1e-10, atol=1e-10)


def test_weights_of_a_wider_guide_average_to_the_evidence():
    """2000 weights, datum by datum within 4 standard errors of the closed form."""
    chain = LinearChain(5, (3, 1), orthogonal=True)
    x = chain.marginal(0).sample((20,))
    found = pyro_vae.log_likelihood(chain.model, exact_guide(chain, 1.2), x, 2000, seed=0, compile="off")
    assert 1e-3 < found.standard_errors.max() < 0.2
    assert ((found.per_datum - chain.marginal(0).log_prob(x)).abs() < 4 * found.standard_errors).all()


def pair(model="hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(5,))", **parts):
    model, guide = make_pair((6,), 2, (7, 5), model=model, guide="top_down", **parts)
    return model.double(), guide.double()


def test_the_weight_by_hand(recorder):
    model, guide = pair()
    recorded = recorder(guide)
    x = torch.rand(4, 6).double().round()
    found = log_weights(model, recorded, x, 1)[0]
    z1, z2 = (recorded.values[name].reshape(4, -1) for name in ("z1", "z2"))
    path = model.conditional(1, z2)
    expected = model.likelihood(z1).log_prob(x) + path.log_prob(z1) + model.prior().log_prob(z2)
    d1 = guide.encoder(x).tanh()
    loc, log_scale = guide.estimates[0].encoder(d1).chunk(2, -1)
    precision = (-2 * log_scale).exp() + 1 / path.variance
    mean = (loc * (-2 * log_scale).exp() + path.mean / path.variance) / precision
    expected = expected - Normal(mean, precision.rsqrt()).log_prob(z1).sum(-1)
    loc, log_scale = guide.estimates[1].encoder(guide.upward[0](d1).tanh()).chunk(2, -1)
    expected = expected - Normal(loc, log_scale.exp()).log_prob(z2).sum(-1)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_model_is_no_part_of_the_guide_but_is_trained_through_it():
    model, guide = pair()
    assert guide.model is model
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}
    guide(torch.rand(4, 6).double()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.networks.parameters())
    assert all(p.grad is None for p in model.likelihood.parameters())


def test_a_vamp_prior_on_the_top_layer_averages_its_posteriors():
    guide = pair()[1]
    prior = VampPrior(2, guide, torch.rand(9, 6).double(), num_components=3)
    z = torch.randn(5, 2).double()
    each = guide.posterior(prior.pseudo_inputs).log_prob(z.unsqueeze(1))
    assert_close(prior().log_prob(z), each.exp().mean(1).log(), rtol=1e-10, atol=1e-10)


def test_a_pair_with_a_vamp_prior_is_made_and_fitted_by_name(tmp_path):
    x = torch.rand(40, 6).double().round()
    model, guide = pair(prior="vamp(num_components=3)", data=lambda: x)
    assert model.prior.guide is guide
    assert guide.model is model
    run = pyro_vae.fit(model, guide, x, epochs=2, batch_size=20, compile="trace", seed=0, out=tmp_path)
    assert run.compiled == "trace"
    assert not torch.equal(model.prior.pseudo_inputs, model.prior.pseudo_inputs.round())
    # Prior, guide and model are made of one another.
    loaded = pyro_vae.load_run(tmp_path)
    assert loaded.model.prior.guide is loaded.guide
    assert loaded.guide.model is loaded.model
    assert torch.equal(loaded.model.prior.pseudo_inputs, model.prior.pseudo_inputs)


def test_an_encoder_owes_the_last_hidden_layer():
    guide = pair(encoder="mlp(activation='relu')")[1]
    assert (guide.encoder.hidden_dims, guide.encoder.out_features, guide.encoder.activation) == ((5,), 7, "relu")
    guide.encoder = torch.nn.Linear(6, 3).double()
    with pytest.raises(ValueError, match=r"return 7 \(upward\) = 7 features"):
        guide(torch.rand(4, 6).double())


def test_each_layer_has_a_family_of_its_own(recorder):
    """A low-rank layer is the product of its estimate with the path; a flow starts from that of its base."""
    model, guide = make_pair(
        (6,), 2, (7, 5), guide="top_down(layers=('low_rank(rank=2)', 'planar(num_flows=1)', 'full_rank'))",
        model="hierarchical_vae(inner_latent_dims=(4, 3), inner_hidden_dims=(5,))",
    )  # fmt: skip
    model, guide = model.double(), guide.double()
    assert [type(estimate).__name__ for estimate in guide.estimates] == ["LowRankGuide", "PlanarGuide", "FullRankGuide"]
    recorded = recorder(guide)
    x = torch.rand(4, 6).double().round()
    found = log_weights(model, recorded, x, 1)[0]
    z1, z2, z3 = (recorded.values[name].reshape(4, -1) for name in ("z1", "z2", "z3"))
    to_z1, to_z2 = model.conditional(1, z2), model.conditional(2, z3)
    joint = model.likelihood(z1).log_prob(x) + to_z1.log_prob(z1) + to_z2.log_prob(z2) + model.prior().log_prob(z3)
    d1 = guide.encoder(x).tanh()
    d2 = guide.upward[0](d1).tanh()
    d3 = guide.upward[1](d2).tanh()
    estimate = guide.estimates[0].posterior(d1)
    path = to_z1.base_dist
    precision = torch.linalg.inv(estimate.covariance_matrix) + (1 / path.variance).diag_embed()
    weighted = torch.linalg.solve(estimate.covariance_matrix, estimate.mean) + path.mean / path.variance
    q1 = MultivariateNormal(torch.linalg.solve(precision, weighted), precision_matrix=precision)
    start = guide.estimates[1].posterior(d2)
    share = (1 / start.scale.square()) / (1 / start.scale.square() + 1 / to_z2.base_dist.variance)
    loc, scale = to_z2.mean + share * (start.loc - to_z2.mean), start.scale * share.sqrt()
    noise = inverse_planar(start.steps[0], z2, loc, scale)
    log_q2 = Normal(0.0, 1.0).log_prob(noise).sum(-1) - scale.log().sum(-1)
    log_q2 = log_q2 - start.steps[0].forward(loc + scale * noise)[1]
    expected = joint - q1.log_prob(z1) - log_q2 - guide.estimates[2].posterior(d3).log_prob(z3)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)


def inverse_planar(step, z, loc, scale):
    """Return the noise that the step takes to z, by fixed-point iteration."""
    before = z
    for _ in range(500):
        before = before - 0.5 * (step.forward(before)[0] - z)
    return (before - loc) / scale


class Wide(HierarchicalVAE):
    """Its conditionals have heavier tails."""

    def conditional(self, level, above):
        p = super().conditional(level, above)
        return dist.StudentT(5.0, p.base_dist.loc, p.base_dist.scale).to_event(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (VAE((6,), 2), "VAE has none"),
        (Wide((6,), 2, inner_latent_dims=(3,)), "must be a diagonal Gaussian"),
        (HierarchicalVAE((6,), 2, inner_latent_dims=(4,)), r"z1 must have 3 dims; it has \(4,\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, message):
    with pytest.raises(ValueError, match=f"TopDownGuide: .*{message}"):
        TopDownGuide((6,), 2, inner_latent_dims=(3,), model=model)(torch.zeros(4, 6))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("mean_field",) * 3, r"of z1 to z2, .*; got 3"),
        ("auxiliary", "AuxiliaryGuide has none"),
        ("spline", "behind its flow"),
        ("householder", "ReflectedNormal is none of them"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, message):
    model = HierarchicalVAE((6,), 2, inner_latent_dims=(3,))
    with pytest.raises(ValueError, match=f"TopDownGuide: .*{message}"):
        TopDownGuide((6,), 2, inner_latent_dims=(3,), layers=layers, model=model)(torch.zeros(4, 6))


def test_an_unknown_activation_is_told():
    with pytest.raises(ValueError, match="activation must be one of"):
        TopDownGuide((6,), 2, (), "step", model=HierarchicalVAE((6,), 2))


@pytest.mark.parametrize("level", ["trace", "off"])
def test_fit_trains_it(level, caplog):
    model, guide = pair()
    x = torch.rand(40, 6).double().round()
    run = pyro_vae.fit(model, guide, x, epochs=20, batch_size=20, compile=level, optimizer=_adam, seed=0)
    assert run.compiled == level
    assert caplog.text == ""
    assert run.history[-1]["train_bound_nats"] > run.history[0]["train_bound_nats"] + 0.1


def _adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


class TestContract(GuideSuite):
    part = "top_down"
    model = "hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(5,))"


class TestContractOfFamilies(GuideSuite):
    part = "top_down(layers=('mixture', 'iaf(num_flows=1)', 'low_rank'))"
    model = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"


class TestContractOfThreeLayers(GuideSuite):
    part = "top_down"
    model = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"
