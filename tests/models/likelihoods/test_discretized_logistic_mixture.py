"""The mixture of discretized logistics: sums over all images, a plain float64 computation, its tails and its draws."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae import elbo_terms, log_likelihood
from pyro_vae.errors import PairError
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE, MaskedVAE
from pyro_vae.models.likelihoods import DiscretizedLogisticLikelihood, DiscretizedLogisticMixtureLikelihood
from pyro_vae.models.likelihoods.discretized_logistic_mixture import CoupledLogisticMixture, DiscretizedLogisticMixture
from pyro_vae.testing import LikelihoodSuite

LEVELS = torch.arange(256, dtype=torch.float64) / 255


def mass(x, loc, scale, levels):
    """P of one level of a discretized logistic, by the two distribution functions in Python's floats."""
    half = 0.5 / (levels - 1)
    below = 0.0 if x == 0 else 1 / (1 + math.exp(-(x - half - loc) / scale))
    upto = 1.0 if x == 1 else 1 / (1 + math.exp(-(x + half - loc) / scale))
    return upto - below


def coupled(levels, *batch, size=(1, 1), components=3, dtype=torch.float64):
    shape = (*batch, 3, *size, components)
    loc, scale = torch.rand(shape, dtype=dtype), 0.05 + 0.3 * torch.rand(shape, dtype=dtype)
    logits = torch.randn(*batch, *size, components, dtype=dtype)
    return CoupledLogisticMixture(logits, loc, scale, 2 * torch.rand(shape, dtype=dtype) - 1, levels)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_probabilities_of_all_levels_sum_to_one_and_make_the_mean(dtype, tolerance):
    p = DiscretizedLogisticMixture(
        torch.randn(7, 4, dtype=dtype),
        2 * torch.rand(7, 4, dtype=dtype) - 0.5,
        torch.randn(7, 4, dtype=dtype).exp() / 9,
    )
    probability = p.log_prob(LEVELS.to(dtype)[:, None]).exp()
    assert probability.shape == (256, 7)
    assert_close(probability.sum(0), torch.ones(7, dtype=dtype), rtol=0, atol=tolerance)
    assert_close((probability * LEVELS.to(dtype)[:, None]).sum(0), p.mean, rtol=0, atol=tolerance)


@pytest.mark.parametrize("levels", [2, 5, 8])
def test_the_probabilities_of_all_colours_sum_to_one(levels):
    grid = torch.linspace(0, 1, levels, dtype=torch.float64)
    colours = torch.cartesian_prod(grid, grid, grid).reshape(-1, 1, 3, 1, 1)
    p = coupled(levels, 6)
    probability = p.log_prob(colours).exp()
    assert probability.shape == (levels**3, 6)
    assert_close(probability.sum(0), torch.ones(6).double(), rtol=1e-12, atol=0)
    red = (probability[..., None, None, None] * colours).sum(0)[:, :1]
    assert_close(red, p.mean[:, :1], rtol=1e-10, atol=0)


def test_coupled_channels_by_python():
    p, levels = coupled(4, 2, size=(2, 3)), 4
    x = torch.randint(levels, (2, 3, 2, 3)).double() / (levels - 1)
    expected = []
    for n in range(2):
        total = 0.0
        for i, j in itertools.product(range(2), range(3)):
            weights, (r, g, b) = p.logits[n, i, j].softmax(-1), x[n, :, i, j].tolist()
            pixel = 0.0
            for k in range(3):
                loc, scale, (alpha, beta, gamma) = (
                    part[n, :, i, j, k].tolist() for part in (p.loc, p.scale, p.coefficients)
                )
                green, blue = loc[1] + alpha * (r - 0.5), loc[2] + beta * (r - 0.5) + gamma * (g - 0.5)
                terms = zip((r, g, b), (loc[0], green, blue), scale, strict=True)
                pixel += weights[k].item() * math.prod(mass(*term, levels) for term in terms)
            total += math.log(pixel)
        expected.append(total)
    assert_close(p.log_prob(x), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)


def test_the_channels_are_coupled_as_in_the_paper():
    """Its channels run from -1 to 1: m_g(r) = mu_g + alpha r there, the same number of levels here."""
    p = coupled(256, components=1)
    x = torch.tensor([200.0, 90.0, 31.0]).double() / 255
    alpha, beta, gamma = p.coefficients.flatten()
    r, g = 2 * x[0] - 1, 2 * x[1] - 1
    mu = 2 * p.loc.flatten() - 1
    wide = [mu[0], mu[1] + alpha * r, mu[2] + beta * r + gamma * g]
    expected = math.log(
        math.prod(
            mass(v, (m.item() + 1) / 2, s, 256)
            for v, m, s in zip(x.tolist(), wide, p.scale.flatten().tolist(), strict=True)
        )
    )
    assert p.log_prob(x.reshape(3, 1, 1)).item() == pytest.approx(expected, rel=1e-9)


def test_without_coefficients_the_mean_is_that_of_each_channel():
    p = coupled(16, 5, size=(2, 2))
    p = CoupledLogisticMixture(p.logits, p.loc, p.scale, torch.zeros_like(p.loc), 16)
    expected = [DiscretizedLogisticMixture(p.logits, p.loc[:, c], p.scale[:, c], 16).mean for c in range(3)]
    assert_close(p.mean, torch.stack(expected, 1), rtol=1e-12, atol=1e-12)


def test_the_mean_of_coupled_channels_is_the_mean_where_no_edge_cuts_them_off():
    """Far from the edges, of 100 000 draws within 4.5 standard errors: 12 means are looked at."""
    p = coupled(256, size=(2, 2))
    p = CoupledLogisticMixture(p.logits, 0.45 + 0.1 * p.loc, 0.1 * p.scale, 0.5 * p.coefficients)
    draws = p.sample((100_000,))
    error = draws.std(0) / 100_000**0.5
    assert ((draws.mean(0) - p.mean).abs() < 4.5 * error).all()


def test_one_component_is_the_discretized_logistic():
    mixture = DiscretizedLogisticMixtureLikelihood((2, 3), 2, (4,), num_components=1).double()
    plain = DiscretizedLogisticLikelihood((2, 3), 2, (4,), scale="predicted").double()
    last = mixture.decoder.output
    with torch.no_grad():
        plain.decoder.load_state_dict(
            {k: v[:12] if k.startswith("layers.2") else v for k, v in mixture.decoder.state_dict().items()}
        )
    assert len(last.bias) == 18
    z, x = torch.randn(5, 2).double(), torch.randint(256, (5, 2, 3)) / 255
    assert_close(mixture(z).log_prob(x.double()), plain(z).log_prob(x.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("x_shape", [(2, 3), (3, 2, 1)])
def test_features_are_read_in_their_order(x_shape):
    likelihood = DiscretizedLogisticMixtureLikelihood(x_shape, 2, (4,), num_components=2, levels=8).double()
    z, x = torch.randn(5, 2).double(), torch.randint(8, (5, *x_shape)).double() / 7
    blocks = likelihood.decoder(z).unflatten(-1, (-1, *x_shape, 2)).unbind(1)
    loc, scale, logits = blocks[0], 0.1 * blocks[1].exp(), blocks[2]
    if likelihood.coupled:
        p = CoupledLogisticMixture(logits.sum(1), loc, scale, blocks[3].tanh(), 8)
    else:
        p = DiscretizedLogisticMixture(logits, loc, scale, 8).to_event(2)
    assert len(blocks) == (4 if likelihood.coupled else 3)
    assert_close(likelihood(z).log_prob(x), p.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("x_shape", [(4,), (1, 2, 2), (2, 2, 1), (3, 1, 1)])
def test_only_three_channels_are_coupled(x_shape):
    assert DiscretizedLogisticMixtureLikelihood(x_shape, 2, (4,)).coupled == (x_shape == (3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("feature", [-1e4, -80.0, 80.0, 1e4])
@pytest.mark.parametrize("x_shape", [(1, 2, 2), (3, 2, 1)])
def test_tails_and_gradients_are_finite(x_shape, feature, dtype):
    likelihood = DiscretizedLogisticMixtureLikelihood(x_shape, 2, (), num_components=2).to(dtype)
    x = torch.randint(256, x_shape).to(dtype) / 255
    size = len(likelihood.decoder.output.bias)
    for start in range(0, size, size // (4 if likelihood.coupled else 3)):
        likelihood.zero_grad()
        with torch.no_grad():
            likelihood.decoder.output.bias.zero_()
            likelihood.decoder.output.bias[start : start + 2] = feature
        value = likelihood(torch.zeros(2, dtype=dtype)).log_prob(x)
        value.backward()
        assert value.isfinite()
        assert all(p.grad.isfinite().all() for p in likelihood.parameters())


def test_single_precision_is_as_good_as_its_rounding():
    """A nat of 1000 is a few roundings of its terms, which are as large as a location over a scale."""
    p = coupled(256, 5, size=(4, 4), dtype=torch.float32)
    x = torch.randint(256, (5, 3, 4, 4)).float() / 255
    parts = (part.double() for part in (p.logits, p.loc, p.scale, p.coefficients))
    exact = CoupledLogisticMixture(*parts).log_prob(x.double())
    assert ((p.log_prob(x) - exact).abs() < 1e-6 * exact.abs() + 1e-3).all()


@pytest.mark.parametrize("levels", [4, 8])
def test_draws_of_colours_have_the_probabilities(levels):
    """The share of each colour expected 50 times or more, within 5 standard errors (up to 512 are looked at)."""
    n, p = 100_000, coupled(levels)
    draws = p.sample((n,))
    assert p.support.check(draws).all()
    grid = torch.linspace(0, 1, levels, dtype=torch.float64)
    exact = p.log_prob(torch.cartesian_prod(grid, grid, grid).reshape(-1, 3, 1, 1)).exp()
    code = (draws.reshape(n, 3) * (levels - 1)).round().long() @ torch.tensor([levels**2, levels, 1])
    share = code.bincount(minlength=levels**3) / n
    usual = exact * n >= 50
    assert ((share - exact).abs() < 5 * (exact * (1 - exact) / n).sqrt())[usual].all()


def test_draws_of_grey_levels_have_the_probabilities():
    """The share of each of 16 levels, within 4.5 standard errors."""
    n = 100_000
    p = DiscretizedLogisticMixture(torch.randn(3).double(), torch.rand(3).double(), 0.1 * torch.ones(3).double(), 16)
    exact = p.log_prob(torch.linspace(0, 1, 16).double()).exp()
    share = (p.sample((n,)) * 15).round().long().bincount(minlength=16) / n
    assert ((share - exact).abs() < 4.5 * (exact * (1 - exact) / n).sqrt() + 1e-12).all()


@pytest.mark.parametrize("x_shape", [(1, 2, 2), (3, 2, 1)])
def test_bits_per_dimension_are_told(x_shape):
    likelihood = DiscretizedLogisticMixtureLikelihood(x_shape, 2, (4,), num_components=2)
    model, guide = VAE(x_shape, 2, likelihood=likelihood), MeanFieldGuide(x_shape, 2, (4,))
    x, dims = torch.randint(256, (9, *x_shape)) / 255, math.prod(x_shape)
    for function in (elbo_terms, log_likelihood):
        result = function(model, guide, x, 20, seed=0)
        assert result.bits_per_dim.mean == pytest.approx(-result.log_probability().mean / dims / math.log(2))


def test_expanded_laws_are_the_same_and_refuse_other_values():
    p = coupled(8, 2)
    q = p.expand((5, 2))
    x = torch.randint(8, (5, 2, 3, 1, 1)).double() / 7
    assert_close(q.log_prob(x), p.log_prob(x))
    single = DiscretizedLogisticMixture(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3)).expand((4, 2))
    for law, shape in ((q, (5, 2, 3, 1, 1)), (single, (4, 2))):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(torch.full(shape, 0.3))


def test_a_mask_of_coupled_channels_is_refused_and_one_of_grey_pixels_is_not():
    for x_shape in ((3, 1, 1), (1, 3, 1)):
        model = MaskedVAE(x_shape, 2, likelihood=DiscretizedLogisticMixtureLikelihood(x_shape, 2, (4,)))
        data = (torch.ones(4, *x_shape), torch.rand(4, *x_shape) < 0.5)
        if x_shape[0] == 1:
            assert model(*data).shape == (4, 2)
            continue
        with pytest.raises(PairError, match="gives CoupledLogisticMixture"):
            model(*data)


@pytest.mark.parametrize(("option", "value"), [("num_components", 0), ("levels", 1), ("num_components", 2.5)])
def test_an_option_that_is_none_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        DiscretizedLogisticMixtureLikelihood((3,), 2, **{option: value})


class TestContract(LikelihoodSuite):
    part = "discretized_logistic_mixture(num_components=2, levels=8)"


class TestCoupled(LikelihoodSuite):
    part = "discretized_logistic_mixture(num_components=2, levels=8)"
    x_shape = (3, 2, 1)
