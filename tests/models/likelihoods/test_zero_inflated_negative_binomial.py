"""The zero-inflated negative binomial likelihood by hand."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.models.likelihoods import ZeroInflatedNegativeBinomialLikelihood
from pyro_vae.testing import LikelihoodSuite


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("kind", [0.3, "predicted"])
def test_log_probability_by_hand(kind, library):
    likelihood = ZeroInflatedNegativeBinomialLikelihood((2, 3), 2, (4,), inverse_dispersion=kind, library=library)
    likelihood.double()
    z, x = torch.randn(5, 2).double(), torch.randint(4, (5, 2, 3)).double()
    assert (x == 0).any()
    sizes = torch.tensor([1.0, 8.0, 30.0, 100.0, 1000.0]).double()
    features = likelihood.decoder(z).detach()
    mean = sizes[:, None] * features[:, :6].softmax(-1) if library else features[:, :6].exp()
    theta = features[:, 12:].exp() if kind == "predicted" else torch.full((5, 6), 0.3, dtype=torch.float64)
    mean, theta, gate = (part.reshape(5, 2, 3).numpy() for part in (mean, theta, features[:, 6:12].sigmoid()))
    plain = stats.nbinom.pmf(x.numpy(), theta, theta / (theta + mean))
    expected = torch.from_numpy(np.log(gate * (x.numpy() == 0) + (1 - gate) * plain)).sum((1, 2))
    found = likelihood(z, sizes) if library else likelihood(z)
    assert_close(found.log_prob(x).detach(), expected, rtol=1e-9, atol=1e-9)


class TestContract(LikelihoodSuite):
    part = "zero_inflated_negative_binomial"
