"""The running sums equal sums over all weights, however the data and the samples are cut."""

import math

import pytest
import torch
from arviz_psis import khat_of_all
from torch.testing import assert_close

from pyro_vae.evaluation.evidence.weight_sums import WeightSums
from pyro_vae.evaluation.over_data.stream import Chunk
from pyro_vae.programs.precision import Rounding

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def no_rounding(size):
    return Rounding(torch.zeros(size).double(), torch.ones(size).double())


def chunks_of(weights, data, block, step=50):
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        yield Chunk(data, part, torch.zeros_like(part), block)


@pytest.mark.parametrize("as_numbers", [True, False])
def test_blocks_with_samples_of_their_own_equal_sums_over_all_weights(as_numbers):
    """Seven data in blocks of four and three, 400 and 130 samples in chunks of 50, numbers in any order."""
    first, second = 3 * torch.randn(400, 4).double() - 700, 2 * torch.randn(130, 3).double() + 700
    where = [torch.tensor([6, 0, 3, 5]), torch.tensor([4, 1, 2])] if as_numbers else [slice(0, 4), slice(4, 7)]
    stream = [*chunks_of(first, where[0], 0), *chunks_of(second, where[1], 1)]
    found = WeightSums(stream, 7, 400, no_rounding(7))
    for data, weights in zip(where, (first, second), strict=True):
        samples = len(weights)
        w = (weights - weights.max(0).values).exp()
        assert (found.num_samples[data] == samples).all()
        assert_close(found.log_mean[data], weights.logsumexp(0) - math.log(samples), **EXACT)
        assert_close(found.ess[data], w.sum(0).square() / w.square().sum(0), **EXACT)
        assert_close(found.standard_errors[data], w.std(0) / math.sqrt(samples) / w.mean(0), **EXACT)
        assert_close(found.pareto_k[data], khat_of_all(weights.T), **EXACT)


def test_one_weight_has_no_error_and_weights_of_zero_have_no_logarithm():
    weights = torch.tensor([[-3.0, -math.inf]]).double()
    found = WeightSums(chunks_of(weights, slice(0, 2), 0), 2, 1, no_rounding(2))
    assert found.log_mean.tolist() == [-3.0, -math.inf]
    assert found.standard_errors.isnan().all()
    assert found.pareto_k.isnan().all()
