"""Losses that are sums: what Pyro trains is trained, and its bound is the closed form; evaluations refuse it."""

import logging
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import elbo_terms, fit, load_run, log_likelihood, log_weights
from pyro_vae.errors import PairError
from pyro_vae.objectives import IWAE, AnalyticKL, BetaELBO

X = torch.tensor([-1.5, -0.5, 0.0, 0.4, 1.0, 2.5, 3.0, 3.5])
STILL = partial(SGD, lr=0.0)


class Mixture(nn.Module):
    """x ~ N(loc_y, 1), y ~ Categorical(0.25, 0.75), in the model alone."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 2.0]))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.25, 0.75])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.loc[y], 1.0), obs=x)

    def evidence(self, x):
        parts = dist.Normal(self.loc, 1.0).log_prob(x.unsqueeze(-1)) + torch.tensor([0.25, 0.75]).log()
        return parts.logsumexp(-1).mean().item()


def nothing(x):
    """A guide without a site."""


def enumerated():
    return TraceEnum_ELBO(max_plate_nesting=1)


@pytest.mark.parametrize("compile", ["off", "trace"])
def test_a_label_that_only_the_model_has_is_summed_out(compile):
    model, settings = Mixture(), {"objective": enumerated(), "compile": compile}
    still = fit(model, nothing, X, valid=X, epochs=1, batch_size=8, optimizer=STILL, **settings)
    row = still.history[0]
    assert row["train_bound_nats"] == pytest.approx(model.evidence(X), rel=1e-5)
    assert row["valid_bound_nats"] == pytest.approx(model.evidence(X), rel=1e-5)
    before = model.evidence(X)
    run = fit(model, nothing, X, epochs=20, batch_size=4, optimizer=partial(Adam, lr=0.05), **settings)
    assert model.evidence(X) > before + 0.02
    assert run.compiled == "off"


def test_a_label_that_nobody_sums_out_is_refused():
    for objective in (Trace_ELBO(), AnalyticKL(), IWAE()):
        with pytest.raises(PairError, match="only in the model: y"):
            fit(Mixture(), nothing, X, objective=objective, epochs=1, batch_size=4)
    model = Mixture()

    def unenumerated(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.25, 0.75])))
            pyro.sample("x", dist.Normal(model.loc[y], 1.0), obs=x)

    with pytest.raises(PairError, match="only in the model: y"):
        fit(unenumerated, nothing, X, objective=enumerated(), epochs=1, batch_size=4)
    run = fit(
        config_enumerate(unenumerated), nothing, X, objective=enumerated(), epochs=1, batch_size=8, optimizer=STILL
    )
    assert run.history[0]["train_bound_nats"] == pytest.approx(model.evidence(X), rel=1e-5)


class Weighted(PyroModule):
    """x ~ N(weight, 1), weight ~ N(0, 1) shared by all data."""

    def __init__(self, num_data: int | None = None) -> None:
        super().__init__()
        self.num_data = num_data
        self.weight = PyroSample(dist.Normal(0.0, 1.0))
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        weight = self.weight + 0 * self.unused
        with pyro.plate("data", self.num_data or len(x), subsample=x, dim=-1):
            pyro.sample("x", dist.Normal(weight, 1.0), obs=x)


def exact(x):
    """The posterior of the weight."""
    pyro.sample("weight", dist.Normal(X.sum() / (1 + len(X)), (1 / (1 + len(X))) ** 0.5))


def evidence():
    """log p(x_1, ..., x_N) / N: every sample of the exact posterior has that log-weight."""
    joint = dist.MultivariateNormal(torch.zeros(len(X)), torch.eye(len(X)) + 1)
    return joint.log_prob(X).item() / len(X)


@pytest.mark.parametrize("objective", [Trace_ELBO(), BetaELBO(), AnalyticKL()])
def test_global_latents_train_and_the_bound_is_that_of_all_data(objective, caplog):
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        run = fit(Weighted(), exact, X, valid=X, objective=objective, epochs=1, batch_size=8, optimizer=STILL)
    if not isinstance(objective, AnalyticKL):
        assert run.history[0]["train_bound_nats"] == pytest.approx(evidence(), rel=1e-5)
        assert run.history[0]["valid_bound_nats"] == pytest.approx(evidence(), rel=1e-5)
    assert "evaluations of each datum will refuse this pair: no batch plate" in caplog.text


class Scaled(Weighted):
    """The same, with the scale written by hand, as SVI's tutorials have it."""

    def forward(self, x):
        weight = self.weight + 0 * self.unused
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=self.num_data / len(x)):
            pyro.sample("x", dist.Normal(weight, 1.0), obs=x)


@pytest.mark.parametrize("compile", ["off", "trace"])
@pytest.mark.parametrize("data", [X, DataLoader(TensorDataset(X), batch_size=4)])
def test_a_scale_written_by_hand_stands_for_all_data(data, compile, caplog):
    """Of an epoch's two batches the mean of log w / N is the evidence / N, whatever way their rows are drawn."""
    settings = {"objective": Trace_ELBO(), "epochs": 1, "optimizer": STILL, "compile": compile}
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        run = fit(Scaled(8), exact_mean, data, valid=X, batch_size=4, **settings)
    assert run.history[0]["train_bound_nats"] == pytest.approx(joint_at_the_mean(), rel=1e-5)
    assert run.history[0]["valid_bound_nats"] == pytest.approx(joint_at_the_mean(), rel=1e-5)
    assert "counts whole" not in caplog.text


def exact_mean(x):
    """A point mass, as AutoDelta's: no noise."""
    pyro.sample("weight", dist.Delta(X.sum() / (1 + len(X))))


def joint_at_the_mean():
    """log p(w, x_1, ..., x_N) / N at the mean of the posterior."""
    w = X.sum() / (1 + len(X))
    return (dist.Normal(0.0, 1.0).log_prob(w) + dist.Normal(w, 1.0).log_prob(X).sum()).item() / len(X)


def test_a_global_latent_that_batches_count_whole_is_said(caplog):
    """Its posterior would be that of one batch: the bound that is trained is not that of all data."""

    def logged(model, **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pyro_vae"):
            fit(model, exact, options.pop("data", X), objective=Trace_ELBO(), epochs=1, optimizer=STILL, **options)
        return caplog.text

    said = "counts whole in each batch of 4 of 8 data, so that its posterior would be one of 4 data"
    assert f"fit: weight belongs to no datum and {said}" in logged(Weighted(), batch_size=4)
    assert "pyro.plate('data', 8, subsample_size=...)" in caplog.text
    assert said in logged(Weighted(), data=DataLoader(TensorDataset(X), batch_size=4))
    for quiet in (logged(Weighted(), batch_size=8), logged(Weighted(8), batch_size=4)):
        assert "counts whole" not in quiet
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        fit(Mixture(), nothing, X, objective=enumerated(), epochs=1, batch_size=4, optimizer=STILL)
    assert "counts whole" not in caplog.text


def test_a_subsample_stands_for_all_data():
    """Under an exact guide the mean over one epoch's batches of log w / N is the evidence / N, by linearity in x."""
    run = fit(Weighted(8), exact, X, epochs=300, batch_size=4, optimizer=STILL)
    bounds = torch.tensor([row["train_bound_nats"] for row in run.history])
    assert abs(bounds.mean().item() - evidence()) < 4 * bounds.std().item() / 300**0.5 + 1e-4


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_automatic_guides_of_global_latents_find_the_posterior(kind, tmp_path):
    model = Weighted()
    guide = kind(model)
    settings = {"batch_size": 8, "objective": Trace_ELBO(num_particles=5)}
    run = fit(model, guide, X, epochs=150, optimizer=partial(Adam, lr=0.05), **settings)
    last = [row["train_bound_nats"] for row in run.history[-50:]]
    assert sum(last) / 50 == pytest.approx(evidence(), abs=0.02)
    assert guide.median()["weight"].item() == pytest.approx(X.sum().item() / 9, abs=0.15)
    fit(model, guide, X, epochs=1, optimizer=STILL, out=tmp_path, **settings)
    again = kind(model)
    again(X)
    load_run(tmp_path, model, again)
    assert again.median()["weight"].item() == guide.median()["weight"].item()


@pytest.mark.parametrize("evaluate", [log_weights, log_likelihood, elbo_terms])
def test_evaluations_go_on_refusing_with_the_reason(evaluate):
    with pytest.raises(PairError, match="no batch plate"):
        evaluate(Weighted(), exact, X, 3)
    with pytest.raises(PairError, match="only in the model: y"):
        evaluate(Mixture(), nothing, X, 3)


def test_what_weighs_each_datum_refuses_global_latents():
    with pytest.raises(PairError, match="no batch plate"):
        fit(Weighted(), exact, X, objective=IWAE(), epochs=1, batch_size=4)


def test_plates_of_two_names_are_named():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(PairError, match=r"'rows' in .*'batch' in"):
        log_weights(model, guide, X, 3)


@pytest.mark.parametrize(("scale", "said"), [(0.25, True), (1.0, False)])
def test_a_bound_that_a_scale_multiplies_is_called_none(scale, said, caplog):
    """The loss is Pyro's, and what is printed of it is not in nats a datum; evaluations are, whatever the scale."""

    def model(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            pyro.sample("z", dist.Normal(x / 2, pyro.param("s", torch.tensor(0.5**0.5))))

    exact = dist.Normal(0.0, 2**0.5).log_prob(X).mean().item()
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        run = fit(model, guide, X, epochs=1, batch_size=8, objective=Trace_ELBO(), optimizer=STILL)
    assert run.history[0]["train_bound_nats"] == pytest.approx(scale * exact, rel=1e-5)
    assert ("its bounds are none on log p(x): they are multiplied by 0.25, the scale" in caplog.text) == said
    assert elbo_terms(model, guide, X, 3).elbo.mean == pytest.approx(exact, rel=1e-5)
