"""The discretized logistic against its naive formula in 60 digits, its sum over all levels, and its draws."""

from decimal import Decimal, localcontext

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import DiscretizedLogisticLikelihood
from pyro_vae.models.likelihoods.discretized_logistic import START, DiscretizedLogistic
from pyro_vae.testing import LikelihoodSuite

LEVELS = torch.arange(256, dtype=torch.float64) / 255
LOCS = [-0.7, 0.0, 1 / 510, 0.2, 0.5, 0.987, 1.0, 3.0]
SCALES = [1e-3, 1e-2, 0.1, 1.0, 10.0]

every_place = pytest.mark.parametrize("loc", LOCS)
every_scale = pytest.mark.parametrize("scale", SCALES)


def make(loc, scale, dtype=torch.float64):
    return DiscretizedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype))


def naive_log_prob(level, loc, scale):
    """log(F(upper edge) - F(lower edge)), in decimals enough that nothing cancels."""
    with localcontext() as context:
        # The distribution functions at the two edges may agree in 740 digits: e^(-1.7 / 0.001) from one.
        context.prec = 60 + int(1 / scale)
        mu, s = Decimal(loc), Decimal(scale)

        def below(edge):
            return 1 / (1 + (-(Decimal(edge) / 510 - mu) / s).exp())

        upper = below(2 * level + 1) if level < 255 else Decimal(1)
        lower = below(2 * level - 1) if level > 0 else Decimal(0)
        return float((upper - lower).ln())


@every_place
@every_scale
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_probabilities_of_all_levels_sum_to_one(loc, scale, dtype, tolerance):
    assert_close(make(loc, scale, dtype).log_prob(LEVELS.to(dtype)).exp().sum().item(), 1.0, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("loc", "scale"), [(-0.7, 1e-3), (0.2, 1e-2), (0.5, 0.1), (0.987, 1.0), (3.0, 10.0)])
def test_log_probability_by_the_naive_formula_in_many_digits(loc, scale):
    levels = [0, 1, 50, 51, 127, 128, 200, 254, 255]
    expected = torch.tensor([naive_log_prob(k, loc, scale) for k in levels], dtype=torch.float64)
    assert_close(make(loc, scale).log_prob(LEVELS[levels]), expected, rtol=1e-12, atol=1e-12)


@every_place
@every_scale
def test_single_precision_and_its_gradient_are_as_good_as_its_rounding(loc, scale):
    """Values and gradients go with (x - loc) / scale, whose rounding is relative to the largest of its terms."""
    found, exact = [], []
    for dtype, results in ((torch.float32, found), (torch.float64, exact)):
        # Both start from the float32 values.
        arguments = [torch.tensor(value).to(dtype).expand(256).clone().requires_grad_() for value in (loc, scale)]
        value = DiscretizedLogistic(*arguments).log_prob(LEVELS.to(dtype))
        results += [value, *torch.autograd.grad(value.sum(), arguments)]
    steepest = max(abs(loc), 1.0) / scale
    sizes = [max(1.0, steepest), max(1.0, steepest) / scale, max(1.0, steepest) / scale]
    for single, double, size in zip(found, exact, sizes, strict=True):
        assert single.isfinite().all()
        assert ((single - double).abs() <= 30 * torch.finfo(torch.float32).eps * size).all()


@every_place
@every_scale
def test_the_gradient_is_that_of_finite_differences(loc, scale):
    arguments = (torch.tensor(loc).double().requires_grad_(), torch.tensor(scale).double().requires_grad_())
    x = LEVELS[[0, 1, 40, 128, 254, 255]]
    assert torch.autograd.gradcheck(
        lambda loc, scale: DiscretizedLogistic(loc, scale).log_prob(x) * scale, arguments, eps=1e-7 * scale, rtol=1e-4
    )


@every_place
@every_scale
def test_the_mean_is_that_of_the_probabilities(loc, scale):
    p = make(loc, scale)
    assert_close(p.mean, (p.log_prob(LEVELS).exp() * LEVELS).sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("loc", "scale"), [(-0.1, 0.1), (0.5, 1e-3), (0.6, 0.05), (0.3, 1.0)])
def test_draws_have_the_probabilities(loc, scale):
    """The share of each level expected 50 times or more, within 5 standard errors (256 levels are looked at)."""
    n, p = 100_000, make(loc, scale)
    levels = (p.sample((n,)) * 255).round().long()
    share, exact = levels.bincount(minlength=256) / n, p.log_prob(LEVELS).exp()
    usual = exact * n >= 50
    error = (exact * (1 - exact) / n).sqrt()
    assert ((share - exact).abs() < 5 * error)[usual].all()
    assert abs(share[usual].sum() - exact[usual].sum()) < 5 / n**0.5
    assert p.support.check(make(loc, scale, torch.float32).sample((1000,))).all()


@pytest.mark.parametrize("kind", [0.3, "shared", "per_pixel", "per_feature", "predicted"])
def test_the_likelihood_reads_location_and_scale_off_its_features(kind):
    likelihood = DiscretizedLogisticLikelihood((2, 3), 2, (4,), scale=kind).double()
    if kind in ("shared", "per_pixel", "per_feature"):
        torch.nn.init.uniform_(likelihood.log_scale, -3, -1)
    z, x = torch.randn(5, 2).double(), torch.randint(256, (5, 2, 3)) / 255
    features = likelihood.decoder(z)
    scale = {
        0.3: lambda: torch.tensor(0.3).double(),
        "shared": lambda: likelihood.log_scale.exp(),
        "per_pixel": lambda: likelihood.log_scale.exp(),
        "per_feature": lambda: likelihood.log_scale.exp(),
        "predicted": lambda: START * features[:, 6:].exp().reshape(5, 2, 3),
    }[kind]()
    expected = DiscretizedLogistic(features[:, :6].reshape(5, 2, 3), scale).log_prob(x).sum((1, 2))
    assert_close(likelihood(z).log_prob(x.double()), expected, rtol=1e-6, atol=1e-6)
    assert ("log_scale" in dict(likelihood.named_parameters())) == (kind in ("shared", "per_pixel", "per_feature"))


@pytest.mark.parametrize("kind", [1e-3, 10.0, "per_pixel", "predicted"])
def test_the_bias_starts_at_the_mean_for_any_scale(kind):
    likelihood = DiscretizedLogisticLikelihood((4,), 2, (), scale=kind).double()
    mean = torch.tensor([0.001, 0.3, 0.9, 0.999], dtype=torch.float64)
    likelihood.initialize_bias(mean)
    assert_close(likelihood(torch.zeros(2).double()).mean, mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("feature", [-1e4, -80.0, 80.0, 1e4])
def test_no_predicted_scale_overflows(feature):
    likelihood = DiscretizedLogisticLikelihood((4,), 2, (), scale="predicted")
    with torch.no_grad():
        likelihood.decoder.output.bias[4:] = feature
    z = torch.zeros(2, requires_grad=True)
    value = likelihood(z).log_prob(torch.tensor([0.0, 51 / 255, 0.6, 1.0]))
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, -1.0, "big", float("nan")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be .*'per_pixel'"):
        DiscretizedLogisticLikelihood((3,), 2, scale=scale)


def test_values_off_the_grid_are_refused_also_when_expanded():
    p = DiscretizedLogistic(torch.zeros(2), torch.ones(2), validate_args=True)
    for q in (p, p.expand((3, 2))):
        with pytest.raises(ValueError, match="support"):
            q.log_prob(torch.tensor([0.0, 0.3]))


def test_other_numbers_of_levels():
    p = DiscretizedLogistic(torch.tensor(0.4).double(), torch.tensor(0.2).double(), levels=5)
    assert_close(p.log_prob(torch.linspace(0, 1, 5).double()).exp().sum().item(), 1.0, rtol=1e-12, atol=0)
    assert p.expand((7,)).levels == 5


class TestContract(LikelihoodSuite):
    part = "discretized_logistic"
