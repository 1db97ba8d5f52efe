"""The bottom-up guide: exact on a linear chain, where each layer's posterior is the Gaussian of block matrices."""

import pytest
import torch
from linear_chain import LinearChain
from pyro import poutine
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close

from pyro_vae import fit, load_run, log_likelihood, log_weights
from pyro_vae.comparison.own_code import code_of
from pyro_vae.errors import RunError
from pyro_vae.guides import AuxiliaryGuide, BottomUpGuide, FullRankGuide, LowRankGuide, MeanFieldGuide
from pyro_vae.models.priors import VampPrior
from pyro_vae.parts import make_pair
from pyro_vae.testing import GuideSuite

MODEL = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"


def exact_layer(chain, level, stretch=1.0):
    """q(z_level | what is below it), as a linear encoder of the full-rank guide gives it."""
    slope, intercept, covariance = chain.conditional(level, level - 1)
    dim, below = slope.shape
    encoder = nn.Linear(below, dim * (dim + 3) // 2).double()
    tril = stretch * torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(dim, dim, offset=-1)
    with torch.no_grad():
        encoder.weight.zero_()[:dim] = slope
        encoder.bias.copy_(torch.cat([intercept, tril.diagonal().log(), tril[rows, columns]]))
    return FullRankGuide((below,), dim, encoder=encoder)


@pytest.mark.parametrize("dims", [(3, 2), (4, 3, 2)])
def test_every_weight_of_a_chain_equals_the_evidence(dims):
    """Given z_1, the upper layers do not depend on x: the factors of this guide can be the posterior's own."""
    chain = LinearChain(5, dims)
    layers = [exact_layer(chain, level) for level in range(1, len(dims) + 1)]
    guide = BottomUpGuide((5,), dims[-1], inner_latent_dims=dims[:-1], layers=layers)
    x = chain.marginal(0).sample((7,))
    with torch.no_grad():
        found = log_weights(chain.model, guide, x, num_samples=3)
    assert_close(found, chain.marginal(0).log_prob(x).expand(3, 7), rtol=1e-10, atol=1e-10)


def test_weights_of_a_wider_guide_average_to_the_evidence():
    """2000 weights, datum by datum within 4 standard errors of the closed form."""
    chain = LinearChain(5, (3, 2))
    layers = [exact_layer(chain, level, stretch=1.2) for level in (1, 2)]
    guide = BottomUpGuide((5,), 2, inner_latent_dims=(3,), layers=layers)
    x = chain.marginal(0).sample((20,))
    found = log_likelihood(chain.model, guide, x, 2000, seed=0, compile="off")
    assert 1e-3 < found.standard_errors.max() < 0.2
    assert ((found.per_datum - chain.marginal(0).log_prob(x)).abs() < 4 * found.standard_errors).all()


def test_the_weight_by_hand(recorder):
    model, guide = make_pair((6,), 2, (5,), model="hierarchical_vae(inner_latent_dims=(3,))", guide="bottom_up")
    model, recorded = model.double(), recorder(guide.double())
    x = torch.rand(4, 6).double().round()
    found = log_weights(model, recorded, x, 1)[0]
    z1, z2 = (recorded.values[name].reshape(4, -1) for name in ("z1", "z2"))
    expected = model.likelihood(z1).log_prob(x) + model.conditional(1, z2).log_prob(z1) + model.prior().log_prob(z2)
    for layer, below, z in ((guide.guides[0], x, z1), (guide.guides[1], z1, z2)):
        loc, log_scale = layer.encoder(below).chunk(2, -1)
        expected = expected - Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_each_layer_is_a_guide_of_its_own():
    given = LowRankGuide((5,), 3, (7,), rank=2)
    guide = BottomUpGuide(
        (2, 3),
        4,
        (9,),
        "relu",
        (5, 3),
        ((6, 5), (4,)),
        layers=("full_rank", given, "mean_field"),
        encoder=nn.Linear(6, 20),
    )
    first, second, third = guide.guides
    assert isinstance(first, FullRankGuide)
    assert isinstance(first.encoder, nn.Linear)
    assert guide.encoder is first.encoder
    assert second is given
    assert isinstance(third, MeanFieldGuide)
    assert (third.x_shape, third.latent_dim, third.hidden_dims, third.activation) == ((3,), 4, (4,), "relu")
    trace = poutine.trace(guide).get_trace(torch.rand(7, 2, 3))
    assert [trace.nodes[name]["value"].shape for name in ("z1", "z2", "z3")] == [(7, 5), (7, 3), (7, 4)]


def test_a_guide_of_the_users_own_is_a_layer():
    model, guide = make_pair(
        (4,), 2, (5,), model="hierarchical_vae(inner_latent_dims=(3,))", guide=f"bottom_up(layers='{__name__}:Shifted')"
    )
    assert all(isinstance(layer, Shifted) for layer in guide.guides)
    assert log_weights(model, guide, torch.rand(6, 4).round(), 2).shape == (2, 6)


class Shifted(MeanFieldGuide):
    pass


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("mean_field",) * 3, r"of z1 to z2, .*; got 3"),
        (3, "layers must be a tuple"),
        ("auxiliary", "AuxiliaryGuide has none"),
        ((MeanFieldGuide((4,), 3), AuxiliaryGuide((3,), 2)), "AuxiliaryGuide has none"),
        ("semi_amortized", "semi_amortized: needs `model`"),
        ("local", "local: needs `data`"),
        ("mean_feild", "unknown name 'mean_feild'"),
        ("low_rank(rank=3)", r"rank must be from 1 to 2"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        BottomUpGuide((4,), 2, (5,), inner_latent_dims=(3,), layers=layers)


def test_the_file_of_a_layer_is_imported_and_hashed_as_that_of_a_part_is(tmp_path):
    """A run folder may name it only where the folder is trusted, and results know which code they are of."""
    file = tmp_path / "own_layer.py"
    file.write_text("from pyro_vae.guides import MeanFieldGuide\n\n\nclass Mine(MeanFieldGuide):\n    pass\n")
    text = f"bottom_up(layers=('mean_field', '{file}:Mine'))"
    model, guide = make_pair((4,), 2, (5,), model="hierarchical_vae(inner_latent_dims=(3,))", guide=text)
    x = torch.rand(20, 4).round()
    fit(model, guide, x, epochs=1, batch_size=10, compile="off", out=tmp_path / "run")
    with pytest.raises(RunError, match=r"own_layer\.py:Mine"):
        load_run(tmp_path / "run")
    assert type(load_run(tmp_path / "run", trust=True).guide.guides[1]).__name__ == "Mine"
    before = code_of({"guide": text}, [])
    assert before.keys() == {"guide.layers.1"}


@pytest.mark.parametrize("option", ["rnak=4", "layers=('mean_field', 'low_rank(rnak=4)')"])
def test_an_option_that_a_layer_does_not_have_is_told(option):
    with pytest.raises(ValueError, match="no option 'rnak'"):
        make_pair((4,), 2, (5,), model="hierarchical_vae", guide=f"bottom_up({option})")


def test_a_vamp_prior_is_refused_for_want_of_a_density_of_the_top_layer():
    guide = BottomUpGuide((4,), 2, (5,), inner_latent_dims=(3,))
    with pytest.raises(ValueError, match="BottomUpGuide has none"):
        VampPrior(2, guide, torch.rand(9, 4), 3)


class TestContract(GuideSuite):
    part = "bottom_up"
    model = "hierarchical_vae(inner_latent_dims=(3,), inner_hidden_dims=(5,))"


class TestContractOfFlows(GuideSuite):
    part = "bottom_up(layers=('full_rank', 'planar(num_flows=2)', 'iaf(num_flows=1)'))"
    model = "hierarchical_vae(inner_latent_dims=(5, 3), inner_hidden_dims=((6, 5), (4,)))"
