"""The mean of counts: with a library size, without one, and within its bound."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.errors import PairError
from pyro_vae.models.likelihoods import PoissonLikelihood
from pyro_vae.models.likelihoods.count_likelihood import LARGEST_LOG, LEAST_MEAN, within_bounds


def likelihood(library: bool) -> PoissonLikelihood:
    return PoissonLikelihood((2, 3), 2, (4,), library=library).double()


def test_without_a_library_size_it_is_the_exponential_up_to_its_bound():
    feature = torch.tensor([[0.0, -2.0, 3.0], [1.5, LARGEST_LOG + 5, 0.1]]).double()
    expected = feature.clone()
    expected[1, 1] = LARGEST_LOG
    assert torch.equal(likelihood(False).log_mean(feature, None), expected)


@pytest.mark.parametrize("batch", [(5,), (3, 5)])
def test_the_means_of_a_datum_add_up_to_its_library_size(batch):
    torch.manual_seed(0)
    feature, library = torch.randn(*batch, 2, 3).double(), torch.rand(5).double() * 1e4 + 1
    mean = likelihood(True).log_mean(feature, library).exp()
    assert_close(mean.sum((-1, -2)), library.expand(batch), rtol=1e-12, atol=0)
    # Within a datum they are in the proportions of exp f.
    ratio = mean[..., 0, 0] / mean[..., 1, 2]
    assert_close(ratio, (feature[..., 0, 0] - feature[..., 1, 2]).exp(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("has_library", "library", "message"),
    [
        (True, None, "needs the library size"),
        (False, torch.ones(5), "library=False uses none"),
        (True, torch.ones(4), r"library must have shape \(batch,\)"),
        (True, torch.tensor([1.0, 2.0, 0.0, 3.0, -1.0]), "2 of 5 size factors"),
    ],
)
def test_a_library_size_that_does_not_fit_is_refused(has_library, library, message):
    with pytest.raises(PairError, match=message):
        likelihood(has_library).log_mean(torch.zeros(5, 2, 3).double(), library)


def test_first_biases_are_logarithms_of_means_that_may_be_zero():
    mean = torch.tensor([0.0, 2.0, 1e6]).double()
    expected = torch.tensor([math.log(LEAST_MEAN), math.log(2.0), math.log(1e6)], dtype=torch.float64)
    assert_close(likelihood(False).bias_for(mean), expected, rtol=1e-12, atol=0)


def test_dispersions_stay_within_their_bounds():
    assert within_bounds(torch.tensor([-99.0, 0.5, 99.0])).tolist() == [-LARGEST_LOG, 0.5, LARGEST_LOG]
