"""Losses that are sums: what Pyro trains is trained, and its bound is the closed form; evaluations refuse it."""

import logging
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.optim import SGD, Adam

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

    with pytest.raises(PairError, match=r"it is 'rows' in the model and 'batch' in the guide"):
        log_weights(model, guide, X, 3)
