"""What likelihoods with one decoder share: which output is what, and which bias is set."""

import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import GaussianLikelihood
from pyro_vae.models.likelihoods.decoded import DecodedLikelihood


def test_outputs_come_one_after_the_other():
    likelihood = DecodedLikelihood((2, 3), 4, (), "tanh", None, {"location": 1, "log scale": 1})
    torch.nn.init.zeros_(likelihood.decoder.output.weight)
    with torch.no_grad():
        likelihood.decoder.output.bias.copy_(torch.arange(12.0))
    first, second = likelihood.features(torch.randn(5, 7, 4))
    assert_close(first, torch.arange(6.0).reshape(2, 3).expand(5, 7, 2, 3))
    assert_close(second, first + 6)


def test_the_bias_of_other_outputs_stays():
    """A predicted scale starts at 1, wherever the mean starts."""
    likelihood = GaussianLikelihood((2, 3), 4, (), scale="predicted")
    mean = torch.rand(2, 3)
    likelihood.initialize_bias(mean)
    p = likelihood(torch.zeros(4))
    assert_close(p.mean, mean)
    assert_close(p.variance, torch.ones(2, 3))
