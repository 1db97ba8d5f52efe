"""The negative binomial likelihood by scipy, for each kind of inverse dispersion."""

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.models.likelihoods import NegativeBinomialLikelihood
from pyro_vae.testing import LikelihoodSuite


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("kind", [0.3, "shared", "per_feature", "predicted"])
def test_log_probability_by_scipy(kind, library):
    likelihood = NegativeBinomialLikelihood((2, 3), 2, (4,), inverse_dispersion=kind, library=library).double()
    if kind in ("shared", "per_feature"):
        torch.nn.init.uniform_(likelihood.log_inverse_dispersion, -1, 1)
    z, x = torch.randn(5, 2).double(), torch.randint(30, (5, 2, 3)).double()
    sizes = torch.tensor([1.0, 8.0, 30.0, 100.0, 1000.0]).double()
    features = likelihood.decoder(z)
    mean = sizes[:, None] * features[:, :6].softmax(-1) if library else features[:, :6].exp()
    theta = {
        0.3: lambda: torch.tensor(0.3, dtype=torch.float64),
        "shared": lambda: likelihood.log_inverse_dispersion.exp(),
        "per_feature": lambda: likelihood.log_inverse_dispersion.exp(),
        "predicted": lambda: features[:, 6:].exp().reshape(5, 2, 3),
    }[kind]()
    mean, theta = (part.detach().expand(5, 2, 3).numpy() for part in (mean.reshape(5, 2, 3), theta))
    expected = torch.from_numpy(stats.nbinom.logpmf(x.numpy(), theta, theta / (theta + mean))).sum((1, 2))
    found = likelihood(z, sizes) if library else likelihood(z)
    assert_close(found.log_prob(x).detach(), expected, rtol=1e-9, atol=1e-9)


def test_what_is_learned_is_a_parameter_of_the_shape_that_it_has():
    shapes = {
        kind: {name: tuple(p.shape) for name, p in made.named_parameters() if name == "log_inverse_dispersion"}
        for kind in (2.0, "shared", "per_feature", "predicted")
        for made in [NegativeBinomialLikelihood((2, 3), 2, (), inverse_dispersion=kind)]
    }
    assert shapes == {
        2.0: {},
        "shared": {"log_inverse_dispersion": ()},
        "per_feature": {"log_inverse_dispersion": (2, 3)},
        "predicted": {},
    }


@pytest.mark.parametrize("value", [0.0, -1.0, "per_pixel", float("nan"), True])
def test_an_inverse_dispersion_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"inverse_dispersion must be"):
        NegativeBinomialLikelihood((3,), 2, inverse_dispersion=value)


class TestContract(LikelihoodSuite):
    part = "negative_binomial"


class TestPredicted(LikelihoodSuite):
    part = "negative_binomial(inverse_dispersion='predicted')"
