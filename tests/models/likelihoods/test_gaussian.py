"""The Gaussian likelihood by its formula, for each kind of scale."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import GaussianLikelihood
from pyro_vae.testing import LikelihoodSuite


@pytest.mark.parametrize("kind", [0.3, "shared", "predicted"])
def test_log_density_by_formula(kind):
    likelihood = GaussianLikelihood((2, 3), 2, (4,), scale=kind).double()
    if kind == "shared":
        torch.nn.init.constant_(likelihood.log_scale, -0.7)
    z, x = torch.randn(5, 2).double(), torch.randn(5, 2, 3).double()
    features = likelihood.decoder(z)
    loc = features[:, :6].reshape(5, 2, 3)
    scales = {0.3: torch.tensor(0.3, dtype=torch.float64), "shared": torch.tensor(-0.7, dtype=torch.float64).exp()}
    scale = scales[kind] if kind in scales else features[:, 6:].exp().reshape(5, 2, 3)
    density = torch.exp(-((x - loc) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))
    assert_close(likelihood(z).log_prob(x), density.log().sum((1, 2)), rtol=1e-12, atol=1e-12)
    assert likelihood(z).mean.shape == (5, 2, 3)


def test_only_a_shared_scale_is_a_parameter_of_its_own():
    names = {kind: dict(GaussianLikelihood((3,), 2, (), scale=kind).named_parameters()) for kind in (0.3, "shared")}
    assert "log_scale" in names["shared"]
    assert "log_scale" not in names[0.3]


@pytest.mark.parametrize("scale", [0.0, -1.0, "big", float("nan")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be .*'predicted'"):
        GaussianLikelihood((3,), 2, scale=scale)


class TestContract(LikelihoodSuite):
    part = "gaussian"
