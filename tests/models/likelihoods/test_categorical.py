"""The categorical likelihood by its formula, its sum over all levels, and its draws."""

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import CategoricalLikelihood
from pyro_vae.models.likelihoods.categorical import GreyCategorical
from pyro_vae.testing import LikelihoodSuite

LEVELS = torch.arange(256, dtype=torch.float64) / 255


def test_log_probability_by_formula():
    likelihood = CategoricalLikelihood((2, 3), 2, (4,)).double()
    z, level = torch.randn(5, 2).double(), torch.randint(256, (5, 2, 3))
    weights = likelihood.decoder(z).reshape(5, 2, 3, 256).exp()
    chosen = (weights * torch.nn.functional.one_hot(level, 256)).sum(-1)
    expected = (chosen / weights.sum(-1)).log().sum((1, 2))
    assert_close(likelihood(z).log_prob(level.double() / 255), expected, rtol=1e-12, atol=1e-12)


def test_the_probabilities_of_all_levels_sum_to_one_and_make_the_mean():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        p = GreyCategorical(30 * torch.randn(7, 256, dtype=dtype))
        probs = p.log_prob(LEVELS.to(dtype)[:, None]).exp()
        assert probs.shape == (256, 7)
        assert_close(probs.sum(0), torch.ones(7, dtype=dtype), rtol=0, atol=tolerance)
        assert_close((probs * LEVELS.to(dtype)[:, None]).sum(0), p.mean, rtol=0, atol=tolerance)


def test_draws_have_the_probabilities():
    """The share of each of 8 levels, within 4 standard errors."""
    n, p = 100_000, GreyCategorical(torch.randn(8, dtype=torch.float64))
    x = p.sample((n,))
    assert p.support.check(x).all()
    share = (x * 7).round().long().bincount(minlength=8) / n
    exact = p.logits.softmax(-1)
    assert ((share - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all()


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_bias_starts_at_the_mean_with_the_largest_entropy(levels):
    """Logits linear in the level; two levels leave only one distribution with a given mean."""
    likelihood = CategoricalLikelihood((4,), 2, (), levels=levels).double()
    mean = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64)
    likelihood.initialize_bias(mean)
    p = likelihood(torch.zeros(2).double()).base_dist
    assert_close(p.mean, mean.clamp(0.001, 0.999), rtol=1e-10, atol=1e-10)
    steps = p.logits.diff(dim=-1)
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-9, atol=1e-9)


def test_values_off_the_grid_are_refused_also_when_expanded():
    p = GreyCategorical(torch.zeros(2, 256), validate_args=True)
    for q in (p, p.expand((3, 2))):
        with pytest.raises(ValueError, match="support"):
            q.log_prob(torch.tensor([0.0, 0.3]))


class TestContract(LikelihoodSuite):
    part = "categorical"
