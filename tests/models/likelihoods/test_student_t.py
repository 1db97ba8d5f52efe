"""The Student-t likelihood by scipy, for each kind of scale and of degrees of freedom."""

import itertools

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pyro_vae.models.likelihoods import StudentTLikelihood
from pyro_vae.testing import LikelihoodSuite

KINDS = (0.5, "shared", "per_feature", "predicted")


@pytest.mark.parametrize(("scale", "df"), [*itertools.product(KINDS, KINDS)])
def test_log_density_by_scipy(scale, df):
    likelihood = StudentTLikelihood((2, 3), 2, (4,), scale=scale, df=df).double()
    for name, parameter in likelihood.named_parameters():
        if name in ("log_scale", "log_df"):
            torch.nn.init.uniform_(parameter, -1, 1)
    z, x = torch.randn(5, 2).double(), torch.randn(5, 2, 3).double()
    loc, *rest = likelihood.decoder(z).detach().reshape(5, -1, 2, 3).unbind(1)
    values = {"scale": scale, "df": df}
    for name, kind in values.items():
        if kind == "predicted":
            values[name] = rest.pop(0).exp() * (5 if name == "df" else 1)
        elif isinstance(kind, str):
            values[name] = getattr(likelihood, f"log_{name}").detach().exp()
        else:
            values[name] = torch.tensor(kind, dtype=torch.float64)
    expected = stats.t.logpdf(x.numpy(), values["df"].numpy(), loc.numpy(), values["scale"].numpy())
    assert_close(likelihood(z).log_prob(x).detach(), torch.from_numpy(expected).sum((1, 2)), rtol=1e-11, atol=1e-11)


def test_degrees_of_freedom_start_at_five():
    z = torch.zeros(3)
    for df in ("shared", "per_feature", "predicted"):
        likelihood = StudentTLikelihood((2,), 3, (), df=df)
        assert_close(likelihood(z).base_dist.df.expand(2), torch.full((2,), 5.0))


@pytest.mark.parametrize(("option", "value"), [("scale", -1.0), ("scale", "big"), ("df", 0.0), ("df", None)])
def test_an_option_that_is_none_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be a positive number"):
        StudentTLikelihood((3,), 2, **{option: value})


class TestContract(LikelihoodSuite):
    part = "student_t"


class TestPredicted(LikelihoodSuite):
    part = "student_t(scale='predicted', df='predicted')"
