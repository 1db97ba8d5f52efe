"""R-hat by its formula, and standard errors of correlated draws that cover."""

import math

import pytest
import torch
from scipy.stats import norm, rankdata

from pyro_vae.evaluation.reference.chain_diagnostics import ess, mean_and_variance, r_hat


def autoregressive(correlation, *shape):
    """Stationary chains of standard normals, ``(num_chains, num_samples, *rest)``."""
    noise = torch.randn(*shape, dtype=torch.float64)
    draws = [noise[:, 0]]
    for step in range(1, shape[1]):
        draws.append(correlation * draws[-1] + math.sqrt(1 - correlation**2) * noise[:, step])
    return torch.stack(draws, 1)


def r_hat_by_hand(draws):
    """Vehtari et al. (2021), equations 3, 4, 14: the larger of that of the ranks and of the folded ranks."""
    half = draws.shape[1] // 2
    split = torch.cat([draws[:, :half], draws[:, -half:]])

    def of(values):
        ranks = torch.from_numpy(rankdata(values.numpy(), axis=None)).reshape(values.shape)
        z = torch.from_numpy(norm.ppf((ranks - 3 / 8) / (values.numel() + 1 / 4)))
        within, between = z.var(1).mean(), z.mean(1).var()
        return ((half - 1) / half + between / within).sqrt()

    return max(of(split), of((split - split.quantile(0.5)).abs()))


def test_r_hat_is_the_rank_normalized_one_of_each_quantity():
    draws = autoregressive(0.7, 4, 50, 2, 3)
    draws[0, :, 0, 0] += 1
    draws[1, :, 1, 2] *= 3
    found = r_hat(draws)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], r_hat_by_hand(draws[:, :, i, j]), rtol=1e-12, atol=0)
    assert r_hat(draws[:, :, 0, 0]).shape == ()


def test_standard_errors_of_correlated_draws_cover_the_truth():
    """2-s.e. intervals in 90 to 99 % of 400 repetitions; of independent draws' errors it would be 68 %."""
    draws = autoregressive(0.6, 4, 200, 400)
    mean, variance = mean_and_variance(draws)
    assert 0.90 < (mean.abs() < 2 * variance.sqrt()).double().mean() < 0.99
    # (1 - r) / (1 + r) = 1/4 of the draws; means of 400 estimates, whose own bias is a few percent.
    for method in ("mean", "bulk"):
        assert ess(draws, method).mean() == pytest.approx(200, rel=0.1)


def test_chains_that_are_stuck_or_not_finite_have_no_r_hat():
    draws = autoregressive(0.0, 2, 20, 3)
    draws[:, :, 1] = draws[:, :1, 1]
    draws[0, 3, 2] = math.nan
    found = r_hat(draws)
    assert found.isfinite().tolist() == [True, False, False]
    assert ess(draws, "tail").isnan().tolist() == [False, False, True]
