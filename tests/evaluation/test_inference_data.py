"""Draws, predictions and diagnostics as ArviZ reads them: by ArviZ, under whichever of its versions is installed."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from arviz_psis import khat_of_all
from pyro import distributions as dist
from refusals import LAYOUTS, leave
from scipy import stats
from torch.testing import assert_close

from pyro_vae.errors import PairError
from pyro_vae.evaluation import to_inference_data
from pyro_vae.evaluation.over_data.run_sizes import run_sizes
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.models.likelihoods import BernoulliLikelihood

GROUPS = {
    "posterior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "sample_stats",
    "observed_data",
}


def names_of(data):
    """Group names of an InferenceData or a DataTree."""
    return set(data.groups()) if callable(data.groups) else {name.strip("/") for name in data.groups} - {""}


def arviz():
    with warnings.catch_warnings():
        # ArviZ 0.x announces its successor on import.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz

    return arviz


def tensor(group, name):
    return torch.from_numpy(group[name].values)


def test_groups_dims_and_coordinates(linear_gaussian):
    case = linear_gaussian
    found = to_inference_data(case.model, case.inexact_guide, case.data(5), num_samples=30, num_chains=2, seed=0)
    assert names_of(found) == GROUPS
    sampled = {"chain": 2, "draw": 30, "datum": 5}
    shapes = {
        ("posterior", "z"): sampled | {"z_dim": 3},
        ("prior", "z"): sampled | {"z_dim": 3},
        ("posterior_predictive", "x"): sampled | {"x_dim": 5},
        ("prior_predictive", "x"): sampled | {"x_dim": 5},
        ("log_likelihood", "x"): sampled,
        ("sample_stats", "log_weight"): sampled,
        ("sample_stats", "pareto_k"): {"datum": 5},
        ("sample_stats", "flagged"): {"datum": 5},
        ("sample_stats", "unresolved"): {"datum": 5},
        ("observed_data", "x"): {"datum": 5, "x_dim": 5},
    }
    for (group, name), shape in shapes.items():
        variable = found[group][name]
        assert dict(zip(variable.dims, variable.shape, strict=True)) == shape, (group, name)
        for dim, size in shape.items():
            assert variable.coords[dim].values.tolist() == list(range(size))
    assert {(group, name) for group in GROUPS for name in found[group].data_vars} == set(shapes)
    assert found["posterior"].attrs["inference_library"] == "pyro-vae"


def test_numbers_are_those_of_the_densities_at_the_draws(linear_gaussian):
    """Log-likelihood and log-weight of each draw, and the k-hat of each datum, worked out from the posterior group."""
    case = linear_gaussian
    x = case.data(5)
    with run_sizes(rows=90):
        found = to_inference_data(case.model, case.inexact_guide, x, num_samples=100, num_chains=2, seed=0)
    z = tensor(found["posterior"], "z")
    log_likelihood = dist.Normal(z @ case.model.loadings.T + case.model.bias, 0.6).to_event(1).log_prob(x)
    log_prior = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1).log_prob(z)
    log_weight = log_likelihood + log_prior - case.diagonal(x).log_prob(z)
    assert_close(tensor(found["log_likelihood"], "x"), log_likelihood)
    assert_close(tensor(found["sample_stats"], "log_weight"), log_weight)
    assert_close(tensor(found["observed_data"], "x"), x)
    expected = torch.as_tensor(khat_of_all(log_weight.flatten(0, 1).mT.contiguous()))
    assert_close(tensor(found["sample_stats"], "pareto_k"), expected, rtol=1e-6, atol=1e-6)
    assert not tensor(found["sample_stats"], "flagged").any()


@pytest.mark.slow
def test_draws_have_their_laws(linear_gaussian):
    """Moments of 8000 draws a datum within 4 s.e.: posterior and prior of z, and what each predicts of x."""
    case, count = linear_gaussian, 8000
    x = case.data(2)
    found = to_inference_data(case.model, case.exact_guide, x, num_samples=count // 4, num_chains=4, seed=0)
    q, evidence, W, b = case.model.posterior(x), case.model.evidence(), case.model.loadings, case.model.bias
    predicted = W @ q.covariance_matrix @ W.T + 0.36 * torch.eye(5).double()
    ones = torch.ones(3).double()
    laws = {
        ("posterior", "z"): (q.mean, q.covariance_matrix.diagonal(dim1=-2, dim2=-1)),
        ("prior", "z"): (0 * ones, ones),
        ("posterior_predictive", "x"): (q.mean @ W.T + b, predicted.diagonal(dim1=-2, dim2=-1)),
        ("prior_predictive", "x"): (b, evidence.covariance_matrix.diagonal()),
    }
    for (group, name), (mean, variance) in laws.items():
        values = tensor(found[group], name).flatten(0, 1)
        assert ((values.mean(0) - mean).abs() < 4 * (variance / count).sqrt()).all(), group
        assert ((values.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / count)).all(), group


def test_what_is_predicted_follows_the_draw_of_z(linear_gaussian):
    """x' - W z - b is the noise alone: standard normal over 0.6, by a Kolmogorov-Smirnov test at 1e-4."""
    case = linear_gaussian
    found = to_inference_data(case.model, case.inexact_guide, case.data(4), num_samples=60, seed=0)
    for draws, predictions in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        z, x = tensor(found[draws], "z"), tensor(found[predictions], "x")
        noise = (x - z @ case.model.loadings.T - case.model.bias) / 0.6
        assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4


def test_it_reads_back_from_netcdf_as_it_was_written(linear_gaussian, tmp_path):
    import xarray

    case = linear_gaussian
    made = to_inference_data(case.model, case.inexact_guide, case.data(4), num_samples=30, seed=0)
    made.to_netcdf(str(tmp_path / "posterior.nc"))
    assert names_of(made) == GROUPS
    for group in GROUPS:
        read = xarray.load_dataset(tmp_path / "posterior.nc", group=group)
        xarray.testing.assert_equal(read, xarray.Dataset(made[group].data_vars, made[group].coords))
        assert read.attrs == made[group].attrs


def test_arviz_summarises_and_plots_it(linear_gaussian):
    from matplotlib import pyplot

    case, az = linear_gaussian, arviz()
    x = case.data(2)
    made = to_inference_data(case.model, case.exact_guide, x, num_samples=500, seed=0)
    table = az.summary(made, var_names=["z"], round_to="none")
    with warnings.catch_warnings():
        # ArviZ 0.23 calls matplotlib 3.11 in a way that this deprecates.
        warnings.filterwarnings("ignore", "Passing a dict or None as alias_mapping", DeprecationWarning)
        az.plot_trace(made, var_names=["z"])
        az.plot_forest(made, var_names=["z"])
    pyplot.close("all")
    exact = case.model.posterior(x).mean
    error = (case.model.posterior(x).variance / 2000).sqrt()
    for datum in range(2):
        for dim in range(3):
            row = table.loc[f"z[{datum}, {dim}]"]
            assert abs(float(row["mean"]) - exact[datum, dim].item()) < 4 * error[datum, dim].item()
            assert abs(float(row["r_hat"]) - 1) < 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_sites_arguments_and_an_inner_plate(layout):
    """A plate has the name of one of ours; samples lie in an outer plate, in repeated rows, or in runs of their own."""

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.1))
            with pyro.plate("draw", 2, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("seen", dist.Normal(z.sum(-1), scale), obs=x.T)
            pyro.sample("label", dist.Bernoulli(logits=scale + y), obs=(y > 0).float())

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            scale = pyro.sample("scale", dist.LogNormal(y, 0.1))
            leave(layout, scale, ndim=1, rows=6)
            with pyro.plate("draw", 2, dim=-2):
                pyro.sample("z", dist.Normal(x.T.unsqueeze(-1).expand(2, len(x), 3), 0.1).to_event(1))

    x, y = torch.randn(6, 2), torch.randn(6)
    found = to_inference_data(model, guide, (x, y), num_samples=20, num_chains=1, seed=0)
    posterior = found["posterior"]
    assert set(posterior.data_vars) == {"scale", "z"}
    assert posterior["scale"].dims == ("chain", "draw", "datum")
    assert posterior["z"].dims == ("chain", "draw", "datum", "draw_plate", "z_dim")
    # Means of 20 draws with standard deviation 0.1.
    mean = tensor(posterior, "z").mean((0, 1))
    assert ((mean - x.unsqueeze(-1)).abs() < 5 * 0.1 / math.sqrt(20)).all()
    assert found["posterior_predictive"]["seen"].dims == ("chain", "draw", "datum", "draw_plate")
    assert set(found["observed_data"].data_vars) == {"seen", "label"}
    assert_close(tensor(found["observed_data"], "seen"), x)
    scale, z = tensor(posterior, "scale"), tensor(posterior, "z")
    expected = dist.Normal(z.sum(-1), scale.unsqueeze(-1)).log_prob(x).sum(-1)
    assert_close(tensor(found["log_likelihood"], "seen"), expected)
    assert found["log_likelihood"]["label"].dims == ("chain", "draw", "datum")


def test_images_have_a_dim_for_each_of_theirs():
    x = torch.zeros(3, 1, 4, 5)
    model, guide = VAE((1, 4, 5), 2, hidden_dims=(8,)), MeanFieldGuide((1, 4, 5), 2, hidden_dims=(8,))
    found = to_inference_data(model, guide, x, num_samples=5, groups=["observed_data", "posterior"])
    assert names_of(found) == {"observed_data", "posterior"}
    assert found["observed_data"]["x"].dims == ("datum", "x_dim_0", "x_dim_1", "x_dim_2")


def test_soft_targets_predict_nothing(caplog):
    likelihood = BernoulliLikelihood((4,), 2, hidden_dims=(8,), soft_targets=True)
    model, guide = VAE((4,), 2, likelihood=likelihood), MeanFieldGuide((4,), 2, hidden_dims=(8,))
    x = torch.rand(3, 4)
    found = to_inference_data(model, guide, x, num_samples=5)
    assert names_of(found) == GROUPS - {"posterior_predictive", "prior_predictive"}
    assert "posterior_predictive and prior_predictive are left out" in caplog.text
    with pytest.raises(ValueError, match=r"soft targets .*nothing can be"):
        to_inference_data(model, guide, x, groups=["prior_predictive"])


def test_a_datum_with_a_nan_is_flagged(linear_gaussian):
    case = linear_gaussian

    def guide(x):
        broken = torch.where(x.sum(-1, keepdim=True) > 1e3, torch.nan, 0.0)
        with pyro.plate("data", len(x), dim=-1):
            q = case.diagonal(x)
            pyro.sample("z", dist.Normal(q.mean + broken, q.stddev).to_event(1))

    x = case.data(4)
    x[2] = 1e4
    stats_of = to_inference_data(case.model, guide, x, num_samples=30, seed=0)["sample_stats"]
    assert stats_of["flagged"].values.tolist() == [False, False, True, False]
    assert np.isnan(stats_of["pareto_k"].values).tolist() == [False, False, True, False]
    assert np.isfinite(stats_of["log_weight"].values).all((0, 1)).tolist() == [True, True, False, True]


def test_a_seed_repeats_and_leaves_the_global_generator_alone(linear_gaussian):
    case = linear_gaussian
    x = case.data(3)
    before = torch.get_rng_state()
    first, again = (to_inference_data(case.model, case.inexact_guide, x, num_samples=5, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for group, name in (("posterior", "z"), ("prior_predictive", "x"), ("posterior_predictive", "x")):
        assert torch.equal(tensor(first[group], name), tensor(again[group], name))


def test_bad_input(linear_gaussian):
    model, guide, x = linear_gaussian.model, linear_gaussian.exact_guide, linear_gaussian.data(3)
    with pytest.raises(ValueError, match="num_chains must be at least 1"):
        to_inference_data(model, guide, x, num_chains=0)
    with pytest.raises(ValueError, match=r"groups are .*; got postirior"):
        to_inference_data(model, guide, x, groups=["postirior"])
    with pytest.raises(ValueError, match="_data: x: there are none"):
        to_inference_data(model, guide, x[:0])
    with pytest.raises(PairError, match="only in the model: z"):
        to_inference_data(model, lambda *_: None, x)
