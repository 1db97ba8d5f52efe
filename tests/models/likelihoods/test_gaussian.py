"""The Gaussian likelihood by its formula, for each kind of scale."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_vae.models.likelihoods import GaussianLikelihood
from pyro_vae.testing import LikelihoodSuite


@pytest.mark.parametrize("kind", [0.3, "shared", "per_feature", "predicted"])
def test_log_density_by_formula(kind):
    likelihood = GaussianLikelihood((2, 3), 2, (4,), scale=kind).double()
    if kind in ("shared", "per_feature"):
        torch.nn.init.uniform_(likelihood.log_scale, -1, 1)
    z, x = torch.randn(5, 2).double(), torch.randn(5, 2, 3).double()
    features = likelihood.decoder(z)
    loc = features[:, :6].reshape(5, 2, 3)
    if kind == 0.3:
        scale = torch.tensor(0.3, dtype=torch.float64)
    else:
        scale = features[:, 6:].exp().reshape(5, 2, 3) if kind == "predicted" else likelihood.log_scale.exp()
    density = torch.exp(-((x - loc) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))
    assert_close(likelihood(z).log_prob(x), density.log().sum((1, 2)), rtol=1e-12, atol=1e-12)
    assert likelihood(z).mean.shape == (5, 2, 3)


def test_a_scale_is_a_parameter_of_its_own_where_it_is_learned_and_not_predicted():
    shapes = {0.3: None, "shared": (), "per_feature": (2, 3), "predicted": None}
    for kind, shape in shapes.items():
        log_scale = dict(GaussianLikelihood((2, 3), 2, (), scale=kind).named_parameters()).get("log_scale")
        assert (None if log_scale is None else tuple(log_scale.shape)) == shape


@pytest.mark.parametrize("scale", [0.0, -1.0, "big", float("nan"), None])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be .*'predicted'"):
        GaussianLikelihood((3,), 2, scale=scale)


class TestContract(LikelihoodSuite):
    part = "gaussian"


class TestPerFeature(LikelihoodSuite):
    part = "gaussian(scale='per_feature')"
