"""Several latent layers: the joint density by hand, marginals of a linear chain, and what the parts are given."""

from typing import ClassVar

import pytest
import torch
from linear_chain import LinearChain
from pyro import poutine
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.testing import assert_close

import pyro_vae
from pyro_vae.models import HierarchicalVAE
from pyro_vae.models.likelihoods import BernoulliLikelihood
from pyro_vae.models.priors import GaussianMixturePrior, StandardNormalPrior
from pyro_vae.nn import MLP
from pyro_vae.parts import make_pair
from pyro_vae.testing import ModelSuite

MODEL = "hierarchical_vae(inner_latent_dims=(4, 2), inner_hidden_dims=((6, 5), (4,)))"


def linear_layers(module):
    return [(layer.in_features, layer.out_features) for layer in module.modules() if isinstance(layer, nn.Linear)]


def test_the_default_is_the_two_layer_net_of_the_iwae_paper():
    """x - 200 - 200 - z1 (100) - 100 - 100 - z2 (50), and back."""
    model, guide = make_pair((1, 28, 28), 50, (200, 200), model="hierarchical_vae", guide="bottom_up")
    assert linear_layers(model.networks) == [(50, 100), (100, 100), (100, 200)]
    assert linear_layers(model.likelihood) == [(100, 200), (200, 200), (200, 784)]
    assert linear_layers(guide.guides[0]) == [(784, 200), (200, 200), (200, 200)]
    assert linear_layers(guide.guides[1]) == [(100, 100), (100, 100), (100, 100)]
    assert {type(layer) for layer in model.networks[0].layers} == {nn.Linear, nn.Tanh}


def test_the_joint_by_hand():
    model = make_pair((2, 3), 3, (7,), model=MODEL)[0].double()
    x = torch.rand(5, 2, 3).double().round()
    trace = poutine.trace(model).get_trace(x)
    z1, z2, z3 = (trace.nodes[f"z{level}"]["value"] for level in (1, 2, 3))
    expected = Normal(0.0, 1.0).log_prob(z3).sum(-1)
    for network, above, z in ((model.networks[1], z3, z2), (model.networks[0], z2, z1)):
        features = network(above)
        loc, log_scale = features[:, : z.shape[1]], features[:, z.shape[1] :]
        expected = expected + Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    logits = model.likelihood.decoder(z1).reshape(x.shape)
    expected = expected + Bernoulli(logits=logits).log_prob(x).sum((1, 2))
    assert_close(trace.log_prob_sum(), expected.sum(), rtol=1e-12, atol=1e-12)


def test_hidden_layers_between_latent_layers_are_named_from_x_upward_in_model_and_guide():
    model, guide = make_pair((2, 3), 3, (8, 7), model=MODEL, guide="bottom_up")
    assert linear_layers(model.networks) == [(2, 5), (5, 6), (6, 8), (3, 4), (4, 4)]
    assert linear_layers(model.likelihood) == [(4, 8), (8, 7), (7, 6)]
    assert linear_layers(guide) == [(6, 7), (7, 8), (8, 8), (4, 6), (6, 5), (5, 4), (2, 4), (4, 6)]


def test_draws_are_ancestral():
    """Mean and covariance of z1 from 40000 draws of a linear chain, within 4 standard errors of the closed form."""
    chain = LinearChain(dims=(3, 2, 2))
    n = 40_000
    z = chain.model(torch.zeros(n, 5).double())
    law = chain.marginal(1)
    deviations = z - law.mean
    assert (deviations.mean(0).abs() < 4 * (law.variance / n).sqrt()).all()
    products = deviations.unsqueeze(-1) * deviations.unsqueeze(-2)
    off = products.mean(0) - law.covariance_matrix
    assert (off.abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("guide_name", ["bottom_up", "top_down"])
def test_five_layers_without_bounds_start_with_finite_weights(guide_name):
    """The layers of Sonderby et al.; at Glorot's full size scales overflow for some of these 200 data."""
    text = "hierarchical_vae(inner_latent_dims=(64, 32, 16, 8), inner_hidden_dims=((128,), (64,), (32,), (32,)))"
    model, guide = make_pair((64,), 4, (128,), model=text, guide=guide_name, activation="elu")
    x = torch.rand(200, 64).round()
    with torch.no_grad():
        assert pyro_vae.log_weights(model, guide, x, 20).isfinite().all()
        assert model(x).abs().max() < 1e3


def test_the_bounded_activation_starts_at_glorots_size():
    for activation, factor in (("tanh", 1.0), ("relu", 0.1)):
        model, guide = make_pair((6,), 30, (20,), model="hierarchical_vae", guide="bottom_up", activation=activation)
        for layer in (model.networks[0].output, guide.guides[1].encoder.output):
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.abs().max().item() == pytest.approx(factor * bound, rel=0.01)
        first = guide.guides[0].encoder.output
        assert first.weight.abs().max().item() == pytest.approx(
            (6 / (first.in_features + first.out_features)) ** 0.5, rel=0.01
        )


def test_parts_are_taken_as_given():
    prior, likelihood = GaussianMixturePrior(3, num_components=2), BernoulliLikelihood((4,), 5, (2,))
    model = HierarchicalVAE((4,), 3, inner_latent_dims=(5,), prior=prior, likelihood=likelihood)
    assert model.prior is prior
    assert model.likelihood is likelihood
    default = HierarchicalVAE((4,), 3, (2,), "relu", (5,), (6,), decoder=MLP)
    assert isinstance(default.prior, StandardNormalPrior)
    made = default.likelihood.decoder
    assert (made.in_features, made.hidden_dims, made.activation) == (5, (2,), "relu")
    assert default.networks[0].activation == "relu"


def test_without_inner_layers_it_is_the_vae():
    torch.manual_seed(0)
    model, guide = make_pair((4,), 3, (5,), model="hierarchical_vae(inner_latent_dims=())", guide="bottom_up")
    torch.manual_seed(0)
    plain, its_guide = make_pair((4,), 3, (5,))
    x = torch.rand(6, 4).round()
    weights = []
    for pair in ((model, guide), (plain, its_guide)):
        torch.manual_seed(1)
        weights.append(pyro_vae.log_weights(*pair, x, 3))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"inner_latent_dims": 3}, r"got 3: write \(3,\)"),
        ({"inner_latent_dims": (3, 0)}, "inner_latent_dims must be at"),
        ({"inner_hidden_dims": "wide"}, "inner_hidden_dims must be a"),
        ({"inner_hidden_dims": ((3,), (2,))}, r"each of the 1 pairs .*got 2"),
        ({"inner_hidden_dims": ((3, 0.5),)}, "inner_hidden_dims must be a"),
        ({"likelihood": BernoulliLikelihood((4,), 3), "decoder": MLP}, r"write\s*likelihood=Bern"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"HierarchicalVAE: .*{message}"):
        HierarchicalVAE((4,), **settings)


class TestContract(ModelSuite):
    part = "hierarchical_vae(inner_latent_dims=(4, 2), inner_hidden_dims=((6, 5), (4,)))"
    latents: ClassVar = {"z1": (4,), "z2": (2,), "z3": (3,)}
